//! A disk in memory that may be full, lose files, and give back what nobody wrote.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use hirsel_role::host::scratch::{Scrap, Scratch};

type File = Arc<Mutex<Vec<u8>>>;

/// What is on it.
#[derive(Clone, Default)]
pub struct FakeScratch {
    pub files: Arc<Mutex<BTreeMap<u64, File>>>,
    /// It takes no more.
    pub is_full: Arc<AtomicBool>,
    /// It takes no more of what is begun.
    pub is_broken: Arc<AtomicBool>,
}

struct Opened(File, Arc<AtomicBool>);

fn full<T: Send + 'static>() -> BoxFuture<'static, io::Result<T>> {
    ready(Err(io::ErrorKind::StorageFull.into())).boxed()
}

impl FakeScratch {
    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        self.files.lock().unwrap().values().map(|file| file.lock().unwrap().len()).sum()
    }

    pub fn count(&self) -> usize {
        self.files.lock().unwrap().len()
    }

    /// One bit of every file is not what it was, at this place from the end.
    pub fn rot(&self, back: usize) {
        for file in self.files.lock().unwrap().values() {
            let mut file = file.lock().unwrap();
            if let Some(at) = file.len().checked_sub(back) {
                file[at] ^= 1;
            }
        }
    }
}

impl Scratch for FakeScratch {
    fn clear(&self) -> BoxFuture<'static, io::Result<()>> {
        self.files.lock().unwrap().clear();
        ready(Ok(())).boxed()
    }
    fn create(&self, number: u64, _: u64) -> BoxFuture<'static, io::Result<Arc<dyn Scrap>>> {
        if self.is_full.load(Ordering::SeqCst) {
            return full();
        }
        let file = File::default();
        assert!(self.files.lock().unwrap().insert(number, file.clone()).is_none(), "a number came twice");
        ready(Ok(Arc::new(Opened(file, self.is_broken.clone())) as Arc<dyn Scrap>)).boxed()
    }
    fn open(&self, number: u64) -> BoxFuture<'static, io::Result<Arc<dyn Scrap>>> {
        let found = self.files.lock().unwrap().get(&number).cloned();
        let opened = found.map(|file| Arc::new(Opened(file, self.is_broken.clone())) as Arc<dyn Scrap>);
        ready(opened.ok_or(io::ErrorKind::NotFound.into())).boxed()
    }
    fn remove(&self, number: u64) -> BoxFuture<'static, io::Result<()>> {
        self.files.lock().unwrap().remove(&number);
        ready(Ok(())).boxed()
    }
}

impl Scrap for Opened {
    fn read(&self, at: u64, bytes: usize) -> BoxFuture<'static, io::Result<Vec<u8>>> {
        let file = self.0.lock().unwrap();
        let from = (at as usize).min(file.len());
        let read = file[from..(from + bytes).min(file.len())].to_vec();
        ready(Ok(read)).boxed()
    }
    fn write(&self, at: u64, bytes: Vec<u8>) -> BoxFuture<'static, io::Result<()>> {
        if self.1.load(Ordering::SeqCst) {
            return full();
        }
        let mut file = self.0.lock().unwrap();
        let end = at as usize + bytes.len();
        let length = end.max(file.len());
        file.resize(length, 0);
        file[at as usize..end].copy_from_slice(&bytes);
        ready(Ok(())).boxed()
    }
}
