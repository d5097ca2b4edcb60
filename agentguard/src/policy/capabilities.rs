//! What the kernel side of this build and this kernel enforces, as data. Who finds that out (the
//! loader) is no business of this module; it only answers "is there a hook for that?".

use agentguard_common::{profile::Subject, system::Operation};

use super::model::Access;

/// Which subjects and accesses have a hook that enforces them. A profile that needs one that is
/// missing is refused, naming the rule and the hook; it is never quietly weakened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    missing: Vec<Missing>,
    operations: Vec<(Operation, String)>,
    /// The kernel's release, where it is a certain one's.
    kernel: Option<String>,
}

/// One thing that can't be enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub subject: Subject,
    /// The accesses of [`Subject::File`]; of other subjects, any number here stands for all of it.
    pub access: Access,
    /// The hook that would be needed, by the kernel's name.
    pub hook: String,
}

impl Capabilities {
    /// Everything the language can say is enforced. What `check`, `explain` and `test` assume.
    pub const fn all() -> Self {
        Self {
            missing: Vec::new(),
            operations: Vec::new(),
            kernel: None,
        }
    }

    /// The same, of the kernel with this release.
    pub fn of_kernel(release: &str) -> Self {
        Self {
            kernel: Some(release.to_owned()),
            ..Self::all()
        }
    }

    /// The kernel, as messages name it.
    pub fn kernel(&self) -> String {
        match &self.kernel {
            Some(release) => format!("this kernel ({release})"),
            None => "this kernel".to_owned(),
        }
    }

    /// Takes an operation of `[system]` away.
    #[must_use]
    pub fn without_operation(mut self, operation: Operation, hook: impl Into<String>) -> Self {
        self.operations.push((operation, hook.into()));
        self
    }

    /// Operations of `[system]` that nothing stops, with the hook that would be needed for each.
    pub fn missing_operations(&self) -> impl Iterator<Item = (Operation, &str)> {
        self.operations
            .iter()
            .map(|(operation, hook)| (*operation, hook.as_str()))
    }

    /// Takes one subject away; for files, one access.
    #[must_use]
    pub fn without(mut self, subject: Subject, access: Access, hook: impl Into<String>) -> Self {
        self.missing.push(Missing {
            subject,
            access,
            hook: hook.into(),
        });
        self
    }

    /// The hook that is missing for this verb of the subject, if one is.
    pub fn missing_hook(&self, subject: Subject, verb: u8) -> Option<&str> {
        self.missing
            .iter()
            .find(|missing| {
                missing.subject == subject
                    && (subject != Subject::File || missing.access.verb() == verb)
            })
            .map(|missing| missing.hook.as_str())
    }
}
