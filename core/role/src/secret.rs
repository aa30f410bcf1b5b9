//! Values of secrets on their way to a program. They are in memory only, and nothing prints them.

use std::collections::BTreeMap;
use std::fmt;

use hirsel_model::secret::ValueKey;
use hirsel_model::{AppName, SecretName};

/// A text that is not to be seen.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Plain(pub String);

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain(…)")
    }
}

/// The values that the planned instances of this node need, as far as they have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values(pub BTreeMap<ValueKey, Plain>);

impl Values {
    /// The values of these versions for a service of `app`; the first name whose value has not come yet.
    pub fn of<'a>(
        &self,
        app: &AppName,
        secrets: impl IntoIterator<Item = (&'a SecretName, &'a u64)>,
    ) -> Result<BTreeMap<SecretName, Plain>, SecretName> {
        let value = |(name, version): (&SecretName, &u64)| match self.0.get(&(app.clone(), name.clone(), *version)) {
            Some(value) => Ok((name.clone(), value.clone())),
            None => Err(name.clone()),
        };
        secrets.into_iter().map(value).collect()
    }
}
