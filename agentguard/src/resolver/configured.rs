//! The resolvers that the host is configured with: the `nameserver` lines of `/etc/resolv.conf`,
//! read again when the file has changed. With systemd-resolved that is its stub on 127.0.0.53,
//! which the daemon may ask like every other: its own traffic isn't redirected. Search domains and
//! options are the clients' business.

use std::{
    fs, io,
    net::{SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use resolv_conf::ScopedIp;

/// How often it is looked whether the file has changed.
const LOOK: Duration = Duration::from_secs(1);
const PORT: u16 = 53;
/// As many as the C library uses (`MAXNS`, resolv.conf(5)).
const SERVERS: usize = 3;

/// Why there are no resolvers to forward to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the resolvers in {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: Arc<io::Error>,
    },
    #[error("{} names no resolver that can be asked", path.display())]
    NoneConfigured { path: PathBuf },
}

/// The resolvers of the host.
pub struct Configured {
    path: PathBuf,
    last: Mutex<Option<Last>>,
}

struct Last {
    looked: Instant,
    version: Option<Version>,
    servers: Result<Arc<[SocketAddr]>, Error>,
}

/// What tells one state of the file from another: which file it is, its length in bytes, and when
/// it changed in seconds and nanoseconds.
#[derive(PartialEq, Eq)]
struct Version([u64; 3], [i64; 2]);

impl Configured {
    /// Those in this file, usually `/etc/resolv.conf`. It isn't read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            last: Mutex::new(None),
        }
    }

    /// Which they are now, in the order of the file. At most once a second it is looked whether the
    /// file has changed, and only then it is read.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or names none.
    pub fn servers(&self) -> Result<Arc<[SocketAddr]>, Error> {
        self.servers_at(Instant::now())
    }

    /// Reads them from a file, without remembering anything.
    ///
    /// # Errors
    ///
    /// When the file can't be read, or names none.
    pub fn read(path: &Path) -> Result<Vec<SocketAddr>, Error> {
        let text = fs::read(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source: Arc::new(source),
        })?;
        // Lines that nobody understands are left out, as the C library does.
        let (config, unread) = resolv_conf::Config::parse_with_errors(&text);
        for error in unread {
            tracing::debug!("left out of {}: {error}", path.display());
        }
        let servers: Vec<SocketAddr> = config
            .nameservers
            .iter()
            .filter_map(server)
            .take(SERVERS)
            .collect();
        if servers.is_empty() {
            return Err(Error::NoneConfigured {
                path: path.to_owned(),
            });
        }
        Ok(servers)
    }

    fn servers_at(&self, now: Instant) -> Result<Arc<[SocketAddr]>, Error> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref()
            && now.saturating_duration_since(last.looked) < LOOK
        {
            return last.servers.clone();
        }
        // Before it is read: if it changes in between, it is read once more than needed.
        let version = version(&self.path);
        if let Some(last) = last.as_mut()
            && version.is_some()
            && last.version == version
        {
            last.looked = now;
            return last.servers.clone();
        }
        let servers = Self::read(&self.path).map(Arc::from);
        *last = Some(Last {
            looked: now,
            version,
            servers: servers.clone(),
        });
        servers
    }
}

fn version(path: &Path) -> Option<Version> {
    let found = fs::metadata(path).ok()?;
    Some(Version(
        [found.dev(), found.ino(), found.size()],
        [found.mtime(), found.mtime_nsec()],
    ))
}

/// `None` for an address on an interface that isn't there.
fn server(address: &ScopedIp) -> Option<SocketAddr> {
    let (address, scope) = match address {
        ScopedIp::V4(address) => return Some(SocketAddr::new((*address).into(), PORT)),
        ScopedIp::V6(address, scope) => (address, scope),
    };
    let scope_id = match scope.as_deref().map(str::parse) {
        None => 0,
        Some(Ok(index)) => index,
        Some(Err(_)) => nix::net::if_::if_nametoindex(scope.as_deref()?).ok()?,
    };
    Some(SocketAddrV6::new(*address, PORT, 0, scope_id).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("resolv.conf");
        fs::write(&path, text).expect("written");
        (directory, path)
    }

    fn shown(servers: &[SocketAddr]) -> Vec<String> {
        servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_stub_of_systemd_is_one_like_any_other() {
        let (_directory, path) = file("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n");
        assert_eq!(
            shown(&Configured::read(&path).expect("read")),
            ["127.0.0.53:53"]
        );
    }

    #[test]
    fn scopes_are_kept_and_what_nobody_understands_is_left_out() {
        let (_directory, path) = file(
            "# comment\nnameserver 2001:db8::53\nnameserver fe80::1%7\nnameserver fe80::2%lo\n\
             nameserver fe80::3%nosuchif0\nnonsense \u{fffd}\noptions ndots:many\n",
        );
        assert_eq!(
            shown(&Configured::read(&path).expect("read")),
            ["[2001:db8::53]:53", "[fe80::1%7]:53", "[fe80::2%1]:53"]
        );
    }

    #[test]
    fn without_a_file_or_a_resolver_in_it_there_is_an_error() {
        let (_directory, path) = file("search example\n");
        let error = Configured::read(&path).expect_err("none");
        assert!(matches!(error, Error::NoneConfigured { .. }), "{error}");
        let error = Configured::read(Path::new("/nonexistent/resolv.conf")).expect_err("none");
        assert!(matches!(error, Error::Read { .. }), "{error}");
    }

    #[test]
    fn a_changed_file_is_read_again_after_a_second() {
        let (directory, path) = file("nameserver 192.0.2.1\n");
        let configured = Configured::new(&path);
        let start = Instant::now();
        let servers = |after| shown(&configured.servers_at(start + after).expect("servers"));
        assert_eq!(servers(Duration::ZERO), ["192.0.2.1:53"]);
        // As a tool does that replaces the file.
        let new = directory.path().join("new");
        fs::write(&new, "nameserver 192.0.2.2\n").expect("written");
        fs::rename(&new, &path).expect("renamed");
        assert_eq!(servers(Duration::from_millis(999)), ["192.0.2.1:53"]);
        assert_eq!(servers(LOOK), ["192.0.2.2:53"]);
        fs::remove_file(&path).expect("removed");
        assert!(configured.servers_at(start + LOOK * 3).is_err());
    }
}
