//! Brings the kernel programs into force and takes them out: what the host must have, where the
//! kernel keeps what they read, the pins, and the proof that they enforce. What they enforce is the
//! business of [`crate::tables`].

use agentguard_common::seen::Sequences;
use aya::{
    EbpfError,
    maps::MapError,
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};

use crate::{
    exit::Code,
    pins::{self, Pins},
};

mod cgroups;
pub mod offsets;
mod programs;
pub mod requirements;
mod sequences;

pub use cgroups::CgroupPrograms;
pub use programs::{OBJECT, Programs};
pub use requirements::Requirement;

/// What the programs are loaded with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cells of the arena, when it isn't pinned yet.
    pub arena_cells: u32,
    /// Level of the kernel side's own log: 0 silent, 1 errors, ... 5 everything.
    pub kernel_log: u8,
}

/// Why nothing can be enforced, or enforcement can't be taken away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{detail}; {remedy}")]
    Requirement {
        detail: String,
        remedy: &'static str,
        code: Code,
    },
    #[error(
        "cannot mount the BPF file system at {}: {source}",
        requirements::BPFFS
    )]
    Mount { source: std::io::Error },
    #[error(transparent)]
    Offsets(#[from] offsets::Error),
    #[error(transparent)]
    Pins(#[from] pins::Error),
    #[error("cannot read the kernel's BTF: {source}")]
    Btf { source: aya::BtfError },
    #[error("cannot load the kernel programs' object: {source}")]
    Object { source: EbpfError },
    /// KERNEL: inodes have room for it only where the BPF LSM is initialised (kernel/bpf/bpf_inode_storage.c,
    /// security/bpf/hooks.c).
    #[error(
        "the kernel gives inodes no storage for programs, so its BPF LSM isn't active, whatever {} says: nothing would be enforced, which the canary would show; add bpf to the kernel's lsm= parameter and reboot",
        requirements::LSM_LIST
    )]
    NoInodeStorage,
    #[error("this build's kernel programs lack {name}; it was not built whole")]
    NoProgram { name: &'static str },
    #[error("this build's kernel programs have no map {name}; it was not built whole")]
    NoMap { name: &'static str },
    #[error("this build's kernel programs have programs that nobody attaches: {names}")]
    UnknownPrograms { names: String },
    #[error("the kernel rejects the program {name}: {source}\n{log}")]
    Verifier {
        name: &'static str,
        source: std::io::Error,
        log: String,
    },
    #[error("cannot {operation} {name}: {source}")]
    Program {
        operation: &'static str,
        name: &'static str,
        source: Box<ProgramError>,
    },
    #[error("cannot look at the link of {hook}: {source}")]
    Link {
        hook: &'static str,
        source: LinkError,
    },
    #[error("cannot pin {name}: {source}")]
    Pin {
        name: &'static str,
        source: PinError,
    },
    #[error("cannot open the pinned map {name}: {source}")]
    Map {
        name: &'static str,
        source: MapError,
    },
    #[error(
        "the pinned map {name} belongs to an incompatible version ({difference}); stop the agents, run `agentguard unload` and start again"
    )]
    Layout {
        name: &'static str,
        difference: String,
    },
    #[error(
        "cannot look for active agents ({source}); force it to take enforcement away all the same"
    )]
    Tables { source: Box<crate::tables::Error> },
    #[error(
        "{count} agents are active and would no longer be held to anything; stop them first, or force it"
    )]
    AgentsActive { count: usize },
}

impl Error {
    fn program(operation: &'static str, name: &'static str, source: ProgramError) -> Self {
        Self::Program {
            operation,
            name,
            source: Box::new(source),
        }
    }

    /// The exit code that tells this error.
    pub fn code(&self) -> Code {
        match self {
            Self::Requirement { code, .. } => *code,
            Self::Mount { .. } | Self::Pins(_) | Self::Pin { .. } => Code::NoBpffs,
            Self::Offsets(_) => Code::KernelUnsupported,
            Self::Btf { .. } => Code::NoBtf,
            Self::NoInodeStorage => Code::CanaryFailed,
            Self::Object { .. }
            | Self::NoProgram { .. }
            | Self::NoMap { .. }
            | Self::UnknownPrograms { .. }
            | Self::Verifier { .. }
            | Self::Program { .. }
            | Self::Link { .. } => Code::ProgramRejected,
            Self::Map { .. } | Self::Layout { .. } | Self::Tables { .. } => Code::PinsIncompatible,
            Self::AgentsActive { .. } => Code::AgentsActive,
        }
    }
}

/// Checks the host, then brings this build's programs into force on the pinned maps.
///
/// # Errors
///
/// The first requirement that isn't met, or what went wrong; whatever was in force before still is.
pub fn start(pins: &Pins, options: &Options) -> Result<Programs, Error> {
    let host = requirements::host();
    if let Some(missing) = host
        .requirements
        .into_iter()
        .find(|requirement| requirement.fatal && !requirement.found)
    {
        return Err(Error::Requirement {
            detail: missing.detail,
            remedy: missing.remedy,
            code: missing.code,
        });
    }
    if !requirements::bpffs_mounted() {
        mount_bpffs()?;
    }
    let offsets = host.offsets?;
    pins.create()?;
    programs::check_maps(pins)?;
    let found = programs::Found {
        offsets,
        // The list of requirements says so as well.
        sequences: sequences::find().unwrap_or_else(|error| {
            tracing::warn!(
                "{error}: what agents were allowed to open is looked at anew each time, which costs more"
            );
            Sequences::UNKNOWN
        }),
    };
    let programs = programs::install(pins, &found, host.absent, options)?;
    programs::check_maps(pins)?;
    Ok(programs)
}

/// Takes enforcement away, deliberately: the links first, then everything that is pinned. Refuses
/// while agents are active, unless it is forced.
pub fn unload(pins: &Pins, force: bool) -> Result<(), Error> {
    if !force && !pins.is_empty()? {
        let count = crate::tables::Tables::open(pins)
            .map_err(|source| Error::Tables {
                source: Box::new(source),
            })?
            .active_agents();
        if count > 0 {
            return Err(Error::AgentsActive { count });
        }
    }
    Ok(pins.remove_all()?)
}

fn mount_bpffs() -> Result<(), Error> {
    rustix::mount::mount(
        "bpf",
        requirements::BPFFS,
        "bpf",
        rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV
            | rustix::mount::MountFlags::NOEXEC,
        c"mode=0700",
    )
    .map_err(|error| Error::Mount {
        source: error.into(),
    })
}
