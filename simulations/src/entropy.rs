//! Replaces the operating system's entropy with a seeded stream, on the thread that runs a simulation and nowhere else.
//!
//! Why by interposing and not by passing a generator: no dependency takes one all the way down. chitchat and openraft call
//! `rand::rng()`, `HashMap` draws its keys inside std, ring draws its key shares from a sealed trait. All of them end in one of two
//! symbols of libc, and a symbol defined in the executable wins over the one in `libc.so`:
//!
//! * `getrandom`: std, and the getrandom crate 0.3 and 0.4 (through `dlsym`);
//! * `syscall(SYS_getrandom, ..)`: the getrandom crate 0.2, hence ring.
//!
//! Not covered: `rdrand`, `/dev/urandom`, a statically linked libc. The executable of the agent never links this crate.
#![allow(unsafe_code)] // Two symbols of libc are defined here, and the system call instruction stands behind them.

use std::cell::Cell;
use std::ffi::{c_int, c_long};

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// A simulated agent is a deep stack of futures, deeper still without optimization.
const STACK_BYTES: usize = 64 << 20;

/// Tokio has the tasks of a runtime in so many lists at most, by the remainders of their numbers; of one with a single thread in four.
const LISTS_OF_TASKS: u64 = 64;

/// Has the next task in this process get a number that begins a round of the lists. A runtime that ends (a host that crashes) drops its tasks list
/// by list, what they do in dropping is part of the history, and their numbers count on from whatever ran before. Simulations that run at the
/// same time still take numbers from each other.
fn begin_numbers_of_tasks() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let number = || runtime.spawn(async {}).id().to_string().parse::<u64>().unwrap_or(LISTS_OF_TASKS - 1);
    while number() % LISTS_OF_TASKS != LISTS_OF_TASKS - 1 {}
}

/// Runs `f` on a **fresh** thread whose entropy is a function of `seed`. `Err` holds the words of a panic.
///
/// The thread must be fresh: `rand::rng()` and the hash keys of std are thread-local and keep their state, so a reused thread would
/// start the second run elsewhere.
pub fn with_seed<T: Send + 'static>(seed: u64, f: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    // Naming the symbols here makes the linker take this object whenever a simulation is linked.
    std::hint::black_box((getrandom as *const (), syscall as *const ()));
    begin_numbers_of_tasks();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("sim-{seed}")).stack_size(STACK_BYTES).spawn(move || {
        let words = tell.clone();
        crate::panics::watch(move |panic| drop(words.send(Err(panic))));
        STATE.set(Some(seed));
        let _ = tell.send(Ok(f()));
    });
    match thread {
        Ok(_) => told.recv().unwrap_or(Err("ended without a word".into())),
        Err(error) => Err(format!("could not start a thread: {error}")),
    }
}

/// Bytes of entropy handed out on this thread so far: the first thing to compare when two histories differ.
pub fn drawn() -> u64 {
    DRAWN.get()
}

/// Fills the buffer when this thread simulates.
///
/// # Safety
/// `buf` must be writable for `len` bytes.
unsafe fn fill(buf: *mut u8, len: usize) -> bool {
    let Some(mut state) = STATE.get() else { return false };
    for i in 0..len {
        // SplitMix64, one step for each byte: speed does not matter here.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // SAFETY: inside the caller's buffer.
        unsafe { buf.add(i).write(crate::chance::mix(state) as u8) };
    }
    STATE.set(Some(state));
    DRAWN.set(DRAWN.get() + len as u64);
    true
}

#[cfg(target_arch = "x86_64")]
const SYS_GETRANDOM: c_long = 318;
#[cfg(target_arch = "aarch64")]
const SYS_GETRANDOM: c_long = 278;

/// # Safety
/// Same contract as getrandom(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buf: *mut u8, len: usize, flags: u32) -> isize {
    // SAFETY: the caller's buffer.
    if unsafe { fill(buf, len) } {
        return len as isize;
    }
    // SAFETY: forwards the caller's arguments unchanged.
    unsafe { kernel(SYS_GETRANDOM, [buf as usize, len, flags as usize, 0, 0, 0]) as isize }
}

/// libc declares `syscall` as variadic. On x86_64 and aarch64 Linux a variadic call passes integers as one of fixed arity does, so
/// seven parameters receive them. The futexes of std go through here too.
///
/// # Safety
/// Same contract as syscall(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(nr: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    // SAFETY: for this number the first two arguments are the caller's buffer.
    if nr == SYS_GETRANDOM && unsafe { fill(a as *mut u8, b) } {
        return b as c_long;
    }
    // SAFETY: forwards the caller's arguments unchanged.
    unsafe { kernel(nr, [a, b, c, d, e, f]) }
}

unsafe fn kernel(nr: c_long, args: [usize; 6]) -> c_long {
    unsafe extern "C" {
        fn __errno_location() -> *mut c_int;
    }
    let ret: isize;
    // SAFETY: the raw system call instruction; what it does is the caller's contract.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("syscall", inlateout("rax") nr as isize => ret,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _, options(nostack));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("svc 0", in("x8") nr, inlateout("x0") args[0] as isize => ret,
            in("x1") args[1], in("x2") args[2], in("x3") args[3],
            in("x4") args[4], in("x5") args[5], options(nostack));
        if (-4095..0).contains(&ret) {
            *__errno_location() = -ret as c_int;
            return -1;
        }
    }
    ret as c_long
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use rand::RngCore;
    use ring::rand::{SecureRandom, SystemRandom};

    use super::*;

    fn draw(seed: u64) -> (u64, u64, [u8; 8]) {
        with_seed(seed, || {
            let mut bytes = [0; 8];
            SystemRandom::new().fill(&mut bytes).unwrap();
            (RandomState::new().hash_one(1), rand::rng().next_u64(), bytes)
        })
        .unwrap()
    }

    #[test]
    fn std_rand_and_ring_draw_the_same_from_the_same_seed() {
        let twin = std::thread::spawn(|| draw(7));
        assert_eq!(draw(7), twin.join().unwrap());
        let (a, b) = (draw(7), draw(8));
        assert!(a.0 != b.0 && a.1 != b.1 && a.2 != b.2);
    }

    #[test]
    fn a_thread_that_does_not_simulate_has_real_entropy() {
        let mut twice = [[0; 16]; 2];
        twice.iter_mut().for_each(|bytes| SystemRandom::new().fill(bytes).unwrap());
        assert_ne!(twice[0], twice[1]);
        assert_eq!(drawn(), 0);
    }
}
