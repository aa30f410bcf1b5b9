//! Ordered rows: what the state is kept in. Bytes under bytes, in memory or on disk.

use std::collections::BTreeMap;
use std::ops::Bound;

/// Why rows cannot be read or written: the disk, or what is on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata cannot be read or written: {0}")]
pub struct RowsError(pub String);

/// A row.
pub type Row = (Vec<u8>, Vec<u8>);

/// What a scan does after a row.
pub enum Step {
    /// The next one.
    On,
    /// The first one at or after this key, which lies ahead.
    Seek(Vec<u8>),
    /// No more.
    Stop,
}

/// What a scan shows rows to: their keys and values.
pub type Show<'a> = dyn FnMut(&[u8], &[u8]) -> Result<Step, RowsError> + 'a;

/// Rows that can be read.
pub trait Rows {
    /// The row `key`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError>;

    /// Shows the rows from `from` to before `to`, in order.
    ///
    /// # Errors
    /// When they cannot be read.
    fn scan(&self, from: &[u8], to: &[u8], show: &mut Show<'_>) -> Result<(), RowsError>;

    /// The first row at or after `from` and before `to`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<Row>, RowsError> {
        let mut found = None;
        self.scan(from, to, &mut |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            Ok(Step::Stop)
        })?;
        Ok(found)
    }
}

/// Rows in memory.
pub type Memory = BTreeMap<Vec<u8>, Vec<u8>>;

impl Rows for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        Ok(BTreeMap::get(self, key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], show: &mut Show<'_>) -> Result<(), RowsError> {
        let mut start = from.to_vec();
        'seek: while start.as_slice() < to {
            let range = (Bound::Included(start.as_slice()), Bound::Excluded(to));
            for (key, value) in self.range::<[u8], _>(range) {
                match show(key, value)? {
                    Step::On => {}
                    Step::Seek(ahead) => {
                        start = ahead;
                        continue 'seek;
                    }
                    Step::Stop => return Ok(()),
                }
            }
            return Ok(());
        }
        Ok(())
    }
}

/// Changes on top of rows, until they are taken or dropped. So a command that is refused half way has changed nothing.
pub struct Overlay<'a> {
    below: &'a dyn Rows,
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Overlay<'a> {
    /// No changes yet.
    pub fn new(below: &'a dyn Rows) -> Self {
        Self { below, changes: BTreeMap::new() }
    }

    /// Writes a row.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert(key, Some(value));
    }

    /// Removes a row; removing what is not there is no error.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// The changes: rows to write, and none for those to remove.
    pub fn take(self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        self.changes
    }
}

impl Rows for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], show: &mut Show<'_>) -> Result<(), RowsError> {
        let mut start = from.to_vec();
        while start.as_slice() < to {
            // What was written since, up to the first row below that still stands.
            let mut below = None;
            self.below.scan(&start, to, &mut |key, value| {
                if self.changes.contains_key(key) {
                    return Ok(Step::On);
                }
                below = Some((key.to_vec(), value.to_vec()));
                Ok(Step::Stop)
            })?;
            let until = below.as_ref().map_or(to, |(key, _)| key.as_slice());
            let range = (Bound::Included(start.as_slice()), Bound::Excluded(until));
            let mut step = Step::On;
            for (key, change) in self.changes.range::<[u8], _>(range) {
                let Some(value) = change else { continue };
                step = show(key, value)?;
                if !matches!(step, Step::On) {
                    break;
                }
            }
            if let (Step::On, Some((key, value))) = (&step, &below) {
                step = show(key, value)?;
            }
            start = match (step, below) {
                (Step::Stop, _) | (Step::On, None) => return Ok(()),
                (Step::Seek(ahead), _) => ahead,
                (Step::On, Some((mut key, _))) => {
                    key.push(0);
                    key
                }
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(rows: &dyn Rows, from: &[u8], to: &[u8], jump: u8) -> Vec<Row> {
        let mut seen = Vec::new();
        rows.scan(from, to, &mut |key, value| {
            seen.push((key.to_vec(), value.to_vec()));
            Ok(match key[0] % 4 {
                0 if jump > 0 => Step::Seek(vec![key[0].saturating_add(jump)]),
                _ => Step::On,
            })
        })
        .expect("memory");
        seen
    }

    proptest! {
        #[test]
        fn changes_read_as_if_they_were_made(
            rows in prop::collection::btree_map(any::<u8>(), any::<u8>(), 0..40),
            changes in prop::collection::vec((any::<u8>(), any::<Option<u8>>()), 0..40),
            (from, to, jump) in (any::<u8>(), any::<u8>(), 0..9_u8),
        ) {
            let below: Memory = rows.iter().map(|(key, value)| (vec![*key], vec![*value])).collect();
            let mut overlay = Overlay::new(&below);
            let mut made = below.clone();
            for (key, change) in changes {
                match change {
                    Some(value) => {
                        overlay.put(vec![key], vec![value]);
                        made.insert(vec![key], vec![value]);
                    }
                    None => {
                        overlay.delete(vec![key]);
                        made.remove(&vec![key]);
                    }
                }
            }
            for key in 0..=255 {
                prop_assert_eq!(Rows::get(&overlay, &[key]), Rows::get(&made, &[key]));
            }
            prop_assert_eq!(all(&overlay, &[from], &[to], jump), all(&made, &[from], &[to], jump));
            prop_assert_eq!(overlay.first(&[from], &[to]), made.first(&[from], &[to]));
        }
    }
}
