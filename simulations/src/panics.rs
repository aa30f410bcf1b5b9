//! The first panic of a simulation is its last event.
//!
//! A panic of an agent unwinds through a runtime that drops all other tasks of the host, some of which panic in turn while they are
//! dropped, and that aborts the process before anybody is told the seed. So the thread of a simulation tells its words from the hook,
//! and stands still there. Panics that an agent would have caught (it starts a role again) are told as well.

use std::any::Any;
use std::cell::RefCell;
use std::sync::Once;
use std::time::Duration;

/// How long a thread that panicked stands still: longer than any history takes, so that others are played to their end.
const STILL_FOR: Duration = Duration::from_secs(600);

type Tell = Box<dyn FnOnce(String)>;

thread_local! {
    static TELL: RefCell<Option<Tell>> = const { RefCell::new(None) };
}

/// From now on, the first panic of this thread is told, and the thread never goes on.
pub fn watch(tell: impl FnOnce(String) + 'static) {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            let Some(tell) = TELL.try_with(RefCell::take).ok().flatten() else { return };
            let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
            tell(format!("panic: {}{}", words(info.payload()), place.unwrap_or_default()));
            std::thread::sleep(STILL_FOR);
            // Whoever was told has had time to say it. A test harness would wait for this hook for ever.
            std::process::exit(101);
        }));
    });
    TELL.set(Some(Box::new(tell)));
}

/// Panics of this thread are its own matter again.
pub fn forgive() {
    TELL.take();
}

/// What a panic said.
pub fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without words").into()
}
