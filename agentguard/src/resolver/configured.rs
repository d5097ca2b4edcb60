//! The resolvers that the host is configured with: `/etc/resolv.conf`, read again when it has changed. With
//! systemd-resolved that is its stub on loopback, which this program may ask like every other.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// Where they are configured.
const PATH: &str = "/etc/resolv.conf";
/// How often it is looked whether that has changed.
const LOOK: Duration = Duration::from_secs(1);
const PORT: u16 = 53;

/// The resolvers of the host, or those that are named instead.
pub struct Configured {
    path: PathBuf,
    named: Vec<SocketAddr>,
    read: Mutex<Option<Read>>,
}

struct Read {
    looked: Instant,
    changed: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Configured {
    /// Those `named`, or the host's where none is.
    pub fn new(named: &[IpAddr]) -> Self {
        Self {
            path: PATH.into(),
            named: named
                .iter()
                .map(|address| SocketAddr::new(*address, PORT))
                .collect(),
            read: Mutex::new(None),
        }
    }

    /// Which they are now. None when none are configured, or when that can't be read.
    pub fn servers(&self) -> Vec<SocketAddr> {
        if !self.named.is_empty() {
            return self.named.clone();
        }
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(read) = read.as_mut() {
            if read.looked.elapsed() < LOOK {
                return read.servers.clone();
            }
            read.looked = Instant::now();
            if read.changed == changed(&self.path) && read.changed.is_some() {
                return read.servers.clone();
            }
        }
        let changed = changed(&self.path);
        let servers = match parse_file(&self.path) {
            Ok(servers) => servers,
            Err(error) => {
                tracing::error!(
                    "cannot read the resolvers in {}: {error}",
                    self.path.display()
                );
                Vec::new()
            }
        };
        *read = Some(Read {
            looked: Instant::now(),
            changed,
            servers: servers.clone(),
        });
        servers
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

fn parse_file(path: &Path) -> io::Result<Vec<SocketAddr>> {
    let text = fs::read(path)?;
    let config = resolv_conf::Config::parse(&text).map_err(io::Error::other)?;
    Ok(config.nameservers.iter().filter_map(server).collect())
}

fn server(address: &resolv_conf::ScopedIp) -> Option<SocketAddr> {
    Some(match address {
        resolv_conf::ScopedIp::V4(v4) => SocketAddr::new((*v4).into(), PORT),
        resolv_conf::ScopedIp::V6(v6, None) => SocketAddr::new((*v6).into(), PORT),
        resolv_conf::ScopedIp::V6(v6, Some(scope)) => {
            let index = match scope.parse() {
                Ok(index) => index,
                Err(_) => nix::net::if_::if_nametoindex(scope.as_str()).ok()?,
            };
            SocketAddrV6::new(*v6, PORT, 0, index).into()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: PathBuf) -> Configured {
        Configured {
            path,
            ..Configured::new(&[])
        }
    }

    #[test]
    fn the_hosts_resolvers_are_those_of_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("resolv.conf");
        fs::write(
            &path,
            "search example\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0\n",
        )
        .expect("written");
        let shown: Vec<String> = at(path).servers().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.53:53", "[2001:db8::53]:53"]);
    }

    #[test]
    fn without_a_file_there_are_none() {
        assert!(at("/nonexistent/resolv.conf".into()).servers().is_empty());
    }

    #[test]
    fn those_that_are_named_take_their_place() {
        let named = Configured::new(&["192.0.2.1".parse().expect("an address")]);
        assert_eq!(
            named.servers(),
            ["192.0.2.1:53".parse().expect("an address")]
        );
    }
}
