//! `agentguard tag` and `untag`: make an existing cgroup an agent's, and release it. The daemon does
//! the work; here is what may be named and what is said about it.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Component, Path, PathBuf},
};

use anyhow::Context as _;
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use super::{name_profiles, print_details};
use crate::{
    api::{
        client::{self, Client},
        types::{Tag, Untag},
    },
    config::Config,
    exit::Code,
    render::safe,
};

/// Where cgroup v2 is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Arguments of `agentguard tag`.
#[derive(Clone, Debug, clap::Args)]
pub struct TagArgs {
    /// Directory of the cgroup: a path in /sys/fs/cgroup, or relative to it
    #[arg(value_name = "CGROUP", value_parser = OsStringValueParser::new().try_map(|path| cgroup(&path)))]
    pub cgroup: PathBuf,

    /// Profile that its processes are held to
    #[arg(value_name = "PROFILE")]
    pub profile: String,

    /// Name of the agent in events and in `agentguard agents` [default: the cgroup's own]
    #[arg(short, long, value_name = "NAME")]
    pub name: Option<String>,

    /// Leave processes that are in it already what they have open and the profile denies
    #[arg(long)]
    pub allow_open: bool,
}

/// Arguments of `agentguard untag`.
#[derive(Clone, Debug, clap::Args)]
pub struct UntagArgs {
    /// Directory of the cgroup: a path in /sys/fs/cgroup, or relative to it
    #[arg(value_name = "CGROUP", value_parser = OsStringValueParser::new().try_map(|path| cgroup(&path)))]
    pub cgroup: PathBuf,
}

/// Tags a cgroup.
pub fn tag(args: &TagArgs, config: &Config) -> anyhow::Result<Code> {
    let what = || format!("cannot tag {}", safe(&args.cgroup.to_string_lossy()));
    let mut client = Client::connect(&config.socket).with_context(what)?;
    let tagged = client
        .tag(&Tag {
            cgroup: args.cgroup.clone(),
            profile: args.profile.clone(),
            name: args.name.clone(),
            allow_open: args.allow_open,
        })
        .map_err(|error| name_profiles(error, &mut client));
    if let Err(error) = &tagged
        && let Some(client::Error::Refused(refusal)) = error.downcast_ref()
    {
        print_details(refusal)?;
    }
    let tagged = tagged.with_context(what)?;
    for held in &tagged.held {
        writeln!(anstream::stderr(), "warning: {}", safe(held))?;
    }
    let agent = tagged.agent;
    writeln!(
        anstream::stdout(),
        "agent {} is held to profile {}: every process in {} and below",
        safe(&agent.name),
        safe(&agent.profile),
        safe(&agent.cgroup.to_string_lossy()),
    )?;
    Ok(Code::Success)
}

/// Releases the agent of a tagged cgroup.
pub fn untag(args: &UntagArgs, config: &Config) -> anyhow::Result<Code> {
    let what = || format!("cannot untag {}", safe(&args.cgroup.to_string_lossy()));
    let agent = Client::connect(&config.socket)
        .and_then(|mut client| {
            client.untag(&Untag {
                cgroup: args.cgroup.clone(),
            })
        })
        .with_context(what)?;
    writeln!(
        anstream::stdout(),
        "agent {} is released: its processes are judged no longer",
        safe(&agent.name),
    )?;
    Ok(Code::Success)
}

/// The absolute path of a cgroup's directory, from a path in [`CGROUPS`] or relative to it.
fn cgroup(path: &OsStr) -> Result<PathBuf, &'static str> {
    let path = Path::new(path);
    let below = if path.is_absolute() {
        path.strip_prefix(CGROUPS)
            .map_err(|_| "not in /sys/fs/cgroup")?
    } else {
        path
    };
    let mut cgroup = PathBuf::from(CGROUPS);
    for component in below.components() {
        match component {
            Component::Normal(name) => cgroup.push(name),
            Component::CurDir => {}
            _ => return Err("a cgroup is named without `..`"),
        }
    }
    if cgroup == Path::new(CGROUPS) {
        return Err("the root cgroup can't be an agent's: name one below it");
    }
    if cgroup.to_str().is_none() {
        return Err("the name of a cgroup must be UTF-8");
    }
    Ok(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_named_absolutely_or_below_the_hierarchy() {
        for path in [
            "/sys/fs/cgroup/user.slice/a",
            "user.slice/a",
            "./user.slice//a/",
            "/sys/fs/cgroup//user.slice/./a",
        ] {
            assert_eq!(
                cgroup(OsStr::new(path)),
                Ok(PathBuf::from("/sys/fs/cgroup/user.slice/a"))
            );
        }
    }

    #[test]
    fn what_is_no_cgroup_below_the_root_is_refused() {
        for path in [
            "",
            ".",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/",
            "/sys/fs/cgroupx/a",
            "/etc",
            "/",
            "a/../..",
            "../x",
        ] {
            assert!(cgroup(OsStr::new(path)).is_err(), "{path:?}");
        }
    }
}
