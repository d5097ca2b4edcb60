//! What the kernel side of this build and this kernel enforces, as data. Who finds that out (the
//! loader) is no business of this module; it only answers "is there a hook for that?".

use agentguard_common::profile::Subject;

use super::model::Access;

/// Which subjects and accesses have a hook that enforces them. A profile that needs one that is
/// missing is refused, naming the rule and the hook; it is never quietly weakened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    missing: Vec<Missing>,
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
        }
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
