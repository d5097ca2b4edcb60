//! `[slices]`: systemd slices whose units are agents. A slice's cgroup is tagged as soon as it is
//! there, and again when systemd has made it anew.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use super::core::Core;
use crate::{
    api::types::{AgentState, RefusalCode, Tag},
    loader::requirements::CGROUP_ROOT,
};

/// Where systemd puts a slice: `a-b.slice` lies in `a.slice` (systemd.slice(5)).
pub fn cgroup(slice: &str) -> PathBuf {
    let mut path = PathBuf::from(CGROUP_ROOT);
    let mut at = 0;
    while let Some(dash) = slice[at..].find('-') {
        at += dash;
        path.push(format!("{}.slice", &slice[..at]));
        at += 1;
    }
    path.push(format!("{slice}.slice"));
    path
}

/// Lets systemd make the slices, so that they are tagged before anything is started in them.
pub async fn start(core: &Core) {
    if !sd_notify::booted().unwrap_or(false) {
        return;
    }
    for slice in core.config.slices.keys() {
        let unit = format!("{slice}.slice");
        let status = Command::new("systemctl")
            .args(["start", "--", &unit])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .await;
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::error!("systemctl start {unit} failed ({status})"),
            Err(error) => tracing::error!("cannot run systemctl start {unit}: {error}"),
        }
    }
}

/// Tags every slice that is there and isn't tagged.
pub fn tag(core: &mut Core) {
    for (slice, profile) in core.config.slices.clone() {
        let cgroup = cgroup(&slice);
        let tagged = core.agents.iter().any(|agent| {
            agent.state == AgentState::Active && agent.cgroup.as_deref() == Some(cgroup.as_path())
        });
        if tagged || !cgroup.exists() {
            continue;
        }
        let tagged = core.tag(Tag {
            cgroup: cgroup.clone(),
            profile,
            name: None,
            // FAIL-OPEN: of what is open before the daemon starts, only; a slice that isn't tagged would be worse.
            allow_open: true,
        });
        match tagged {
            Ok(tagged) => {
                for held in &tagged.held {
                    tracing::error!("slice {slice}: {held}; restart its units");
                }
                tracing::info!("slice {slice} is agent {} now", tagged.agent.id);
            }
            Err(refusal) if refusal.code == RefusalCode::UnknownCgroup => {}
            Err(refusal) => {
                tracing::error!("cannot tag the slice {slice}: {}", refusal.message);
            }
        }
    }
}

/// The folders in which slices appear.
pub fn parents(core: &Core) -> impl Iterator<Item = PathBuf> {
    core.config.slices.keys().flat_map(|slice| {
        cgroup(slice)
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(CGROUP_ROOT))
            .map(Path::to_owned)
            .collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_lie_where_systemd_puts_them() {
        for (slice, path) in [
            ("agents", "agents.slice"),
            ("agents-coding", "agents.slice/agents-coding.slice"),
            ("a-b-c", "a.slice/a-b.slice/a-b-c.slice"),
        ] {
            assert_eq!(cgroup(slice), Path::new(CGROUP_ROOT).join(path));
        }
    }
}
