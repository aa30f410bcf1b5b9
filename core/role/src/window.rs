//! Where the agent finds a part of a role that it may ask. Empty until the role has begun.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A place that the role puts what may be asked into, and the agent takes it from.
pub struct Window<T: ?Sized>(Arc<Mutex<Option<Arc<T>>>>);

impl<T: ?Sized> Window<T> {
    /// Who is to be asked from now on.
    pub fn open(&self, behind: Arc<T>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(behind);
    }

    /// Who is to be asked now.
    pub fn behind(&self) -> Option<Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<T: ?Sized> Clone for Window<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Default for Window<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: ?Sized> fmt::Debug for Window<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("open", &self.behind().is_some()).finish()
    }
}
