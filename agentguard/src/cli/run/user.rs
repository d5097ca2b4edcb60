//! The user that an agent's program runs as: found out before the cgroup is entered, because the user
//! database is read through files and sockets that the profile may forbid; become before it as well, because an
//! agent has no capability to.

use std::{
    ffi::{CString, OsStr},
    path::PathBuf,
};

use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid};

/// Why there is no user to run as.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no user {0:?}")]
    Unknown(String),
    #[error("cannot look up user {0:?}: {1}")]
    Lookup(String, nix::Error),
    #[error("cannot look up the groups of user {0:?}: {1}")]
    Groups(String, nix::Error),
    #[error("SUDO_UID is {0:?}, which is not a user id; name the user with --user")]
    SudoUid(String),
    #[error("cannot become user {0:?}: {1} failed: {2}")]
    Become(String, &'static str, nix::Error),
    #[error("cannot become user {0:?}: root could be regained")]
    Regained(String),
}

/// A user with everything that is needed to become it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    home: PathBuf,
}

impl Target {
    /// The user that is asked for, else the one who called sudo, else none (nothing is changed).
    ///
    /// `sudo_uid` is the value of `SUDO_UID`. It is trusted because only root gets here, and because
    /// it can only take rights away.
    pub fn choose(asked: Option<&str>, sudo_uid: Option<&OsStr>) -> Result<Option<Self>, Error> {
        if let Some(user) = asked {
            return Self::find(user).map(Some);
        }
        let Some(text) = sudo_uid else {
            return Ok(None);
        };
        let uid: u32 = text
            .to_str()
            .and_then(|text| text.parse().ok())
            // FAIL-CLOSED: who called is not known, so the answer is not "root".
            .ok_or_else(|| Error::SudoUid(text.to_string_lossy().into_owned()))?;
        if uid == 0 {
            return Ok(None);
        }
        Self::find(&uid.to_string()).map(Some)
    }

    /// The user with this name or, when there is none, this number.
    fn find(user: &str) -> Result<Self, Error> {
        let lookup = |error| Error::Lookup(user.to_owned(), error);
        let mut found = User::from_name(user).map_err(lookup)?;
        if found.is_none()
            && let Ok(uid) = user.parse()
        {
            found = User::from_uid(Uid::from_raw(uid)).map_err(lookup)?;
        }
        let found = found.ok_or_else(|| Error::Unknown(user.to_owned()))?;
        let name = CString::new(found.name.as_str())
            .map_err(|_| Error::Groups(user.to_owned(), nix::Error::EINVAL))?;
        let groups = getgrouplist(&name, found.gid)
            .map_err(|error| Error::Groups(user.to_owned(), error))?;
        Ok(Self {
            name: found.name,
            uid: found.uid,
            gid: found.gid,
            groups,
            home: found.dir,
        })
    }

    /// Takes the user's groups and ids for good. The process must be root and have one thread.
    pub fn become_for_good(&self) -> Result<(), Error> {
        let failed = |call| move |error| Error::Become(self.name.clone(), call, error);
        // In this order: without the uid 0 the groups could not be set any more.
        setgroups(&self.groups).map_err(failed("setgroups"))?;
        setgid(self.gid).map_err(failed("setgid"))?;
        setuid(self.uid).map_err(failed("setuid"))?;
        if !self.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
            return Err(Error::Regained(self.name.clone()));
        }
        Ok(())
    }

    /// What the environment says of the user.
    pub fn environment(&self) -> [(&'static str, &OsStr); 3] {
        [
            ("HOME", self.home.as_os_str()),
            ("USER", OsStr::new(&self.name)),
            ("LOGNAME", OsStr::new(&self.name)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let by_name = Target::find("root").expect("root exists");
        let by_number = Target::find("0").expect("0 exists");
        assert_eq!(by_name, by_number);
        assert!(by_name.uid.is_root());
        assert_eq!(by_name.environment()[1], ("USER", OsStr::new("root")));
    }

    #[test]
    fn without_a_wish_and_without_sudo_nothing_changes() {
        assert_eq!(Target::choose(None, None).expect("nobody asked"), None);
        assert_eq!(
            Target::choose(None, Some(OsStr::new("0"))).expect("root called sudo"),
            None
        );
    }

    #[test]
    fn the_one_who_called_sudo_is_the_default_and_can_be_overruled() {
        let nobody = User::from_name("nobody")
            .expect("the user database can be read")
            .expect("nobody exists");
        let uid = nobody.uid.to_string();
        let chosen = Target::choose(None, Some(OsStr::new(&uid)))
            .expect("nobody exists")
            .expect("somebody called sudo");
        assert_eq!(chosen.uid, nobody.uid);
        assert!(chosen.groups.contains(&nobody.gid));
        let chosen = Target::choose(Some("root"), Some(OsStr::new(&uid)))
            .expect("root exists")
            .expect("a user was asked for");
        assert!(chosen.uid.is_root());
    }

    #[test]
    fn a_user_that_is_not_known_is_an_error_and_never_root() {
        for user in ["no-such-user", "4294967294", "-1", ""] {
            assert!(matches!(
                Target::choose(Some(user), None),
                Err(Error::Unknown(_))
            ));
        }
        assert!(matches!(
            Target::choose(None, Some(OsStr::new("me"))),
            Err(Error::SudoUid(_))
        ));
    }
}
