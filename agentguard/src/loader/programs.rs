//! Loads the kernel programs onto the pinned maps, attaches and pins them; or, when the pinned ones
//! are the same, leaves them as they are. Nothing here decides what is enforced.

use std::{fs, path::Path};

use agentguard_common::{counter::Hook, offsets::KernelOffsets, seen::Sequences};
use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader, Pod,
    maps::{MapData, MapError},
    programs::{
        Lsm, Program, ProgramError,
        links::{FdLink, PinnedLink},
    },
};

use super::{Error, Options, cgroups::CgroupPrograms, requirements};
use crate::pins::Pins;
use crate::tables::layout;

/// The kernel programs, built by build.rs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agentguard"));

/// Lines of the verifier's log that an error shows.
const LOG_LINES: usize = 20;

/// The offset table as aya writes it into the object.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Offsets(KernelOffsets);

// SAFETY: `KernelOffsets` is `repr(C)` and made of `u32`s only.
unsafe impl Pod for Offsets {}

/// The addresses, likewise.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Addresses(Sequences);

// SAFETY: `Sequences` is `repr(C)` and made of `u64`s only.
unsafe impl Pod for Addresses {}

/// What was found out of this kernel, and is put into the programs as constants.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub offsets: KernelOffsets,
    pub sequences: Sequences,
}

/// The programs in the kernel.
#[derive(Debug)]
pub struct Programs {
    /// To be attached to each agent's cgroup.
    pub of_cgroups: CgroupPrograms,
    /// What was pinned was kept: every link already runs these very programs.
    pub adopted: bool,
    /// The kernel's id of the program on `file_open`; through it the kernel's log is found.
    pub file_open: u32,
    /// Hooks that this kernel doesn't have.
    pub absent: Vec<Hook>,
}

/// Brings the programs of this build into force, except for those on the `absent` hooks.
pub fn install(
    pins: &Pins,
    found: &Found,
    absent: Vec<Hook>,
    options: &Options,
) -> Result<Programs, Error> {
    let digest = digest(found, options);
    let present: Vec<Hook> = Hook::ALL
        .into_iter()
        .filter(|hook| !absent.contains(hook))
        .collect();
    let adopted = pins.object()?.as_deref() == Some(&digest) && complete(pins, &present);
    if !adopted {
        replace(pins, &present, found, options)?;
        pins.remember_object(&digest)?;
    }
    let of_cgroups = CgroupPrograms::open(pins)?;
    let file_open = PinnedLink::from_pin(pins.link(Hook::FileOpen.name()))
        .and_then(|link| FdLink::from(link).info())
        .map_err(|source| Error::Link {
            hook: Hook::FileOpen.name(),
            source,
        })?
        .program_id();
    Ok(Programs {
        of_cgroups,
        adopted,
        file_open,
        absent,
    })
}

/// What the running programs depend on: when it is the same, so are they.
fn digest(found: &Found, options: &Options) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(OBJECT);
    hasher.update(format!("{found:?} {}", options.kernel_log).as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// Whether each of these hooks has its pins, and its link runs the pinned program.
fn complete(pins: &Pins, hooks: &[Hook]) -> bool {
    hooks.iter().all(|hook| {
        let name = hook.name();
        let Ok(program) = aya::programs::ProgramInfo::from_pin(pins.program(name)) else {
            return false;
        };
        hook.is_of_cgroups()
            || PinnedLink::from_pin(pins.link(name))
                .and_then(|link| FdLink::from(link).info())
                .is_ok_and(|link| link.program_id() == program.id())
    })
}

/// Loads the programs of these hooks, then attaches them, then lets the pins of the new ones take the
/// place of the old ones'. An error on the way leaves the old ones as they were.
fn replace(pins: &Pins, hooks: &[Hook], found: &Found, options: &Options) -> Result<(), Error> {
    let btf = Btf::from_sys_fs().map_err(|source| Error::Btf { source })?;
    let mut object = load_object(pins, found, options, &btf)?;
    let programs: Vec<String> = object
        .programs()
        .map(|(name, _)| name.to_owned())
        .filter(|name| name != AT_ONCE && !Hook::ALL.iter().any(|hook| hook.name() == name))
        .collect();
    if !programs.is_empty() {
        return Err(Error::UnknownPrograms {
            names: programs.join(", "),
        });
    }
    for hook in hooks {
        load_program(&mut object, *hook, &btf)?;
    }
    let mut links = Vec::new();
    for hook in hooks {
        if !hook.is_of_cgroups() {
            links.push((hook.name(), attach(&mut object, hook.name())?));
        }
    }
    pins.forget_object()?;
    for hook in hooks {
        let name = hook.name();
        let program = program(&mut object, name)?;
        Pins::replace(&pins.program(name), |path| {
            program
                .pin(path)
                .map_err(|source| Error::Pin { name, source })
        })?;
    }
    for (name, link) in links {
        Pins::replace(&pins.link(name), |path| {
            link.pin(path)
                .map(drop)
                .map_err(|source| Error::Pin { name, source })
        })?;
    }
    Ok(())
}

/// Creates the maps that aren't pinned yet, and the programs' relocations to them.
fn load_object(pins: &Pins, found: &Found, options: &Options, btf: &Btf) -> Result<Ebpf, Error> {
    let offsets = Offsets(found.offsets);
    let addresses = Addresses(found.sequences);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .allow_unsupported_maps()
        .override_global("OFFSETS", &offsets, true)
        .override_global("SEQUENCES", &addresses, true)
        .override_global("AYA_LOG_LEVEL", &options.kernel_log, options.kernel_log > 0)
        .map_max_entries(layout::AUTOMATON, options.arena_cells);
    for map in layout::MAPS {
        loader.map_pin_path(map.name, pins.map(map.name));
    }
    let object = loader.load(OBJECT).map_err(|source| match &source {
        EbpfError::MapError(MapError::CreateError { name, io_error })
            if name == layout::SEEN && io_error.raw_os_error() == Some(libc::EOPNOTSUPP) =>
        {
            Error::NoInodeStorage
        }
        _ => Error::Object { source },
    })?;
    for map in layout::MAPS {
        if object.map(map.name).is_none() {
            return Err(Error::NoMap { name: map.name });
        }
    }
    Ok(object)
}

/// The program for `task_alloc` of kernels whose task storage can be busy.
const AT_ONCE: &str = "task_alloc_at_once";

/// The program for the hook `name`.
fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Error> {
    let name = if name == Hook::TaskAlloc.name() && requirements::task_storage_can_be_busy() {
        AT_ONCE
    } else {
        name
    };
    object.program_mut(name).ok_or(Error::NoProgram { name })
}

fn load_program(object: &mut Ebpf, hook: Hook, btf: &Btf) -> Result<(), Error> {
    let name = hook.name();
    let loaded = match program(object, name)? {
        Program::Lsm(program) => program.load(name, btf),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => return Err(Error::NoProgram { name }),
    };
    loaded.map_err(|source| match source {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => Error::Verifier {
            name,
            source: io_error,
            log: explain(name, &verifier_log.to_string()),
        },
        source => Error::program("load", name, source),
    })
}

/// The end of the verifier's log, and where the whole of it was put.
fn explain(name: &str, log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    let path = Path::new("/run/agentguard").join(format!("verifier-{name}.log"));
    match fs::write(&path, log) {
        Ok(()) => format!("{end}\n(the whole log is in {})", path.display()),
        Err(_) => end,
    }
}

fn attach(object: &mut Ebpf, name: &'static str) -> Result<FdLink, Error> {
    let failed = |source| Error::program("attach", name, source);
    let program: &mut Lsm = program(object, name)?.try_into().map_err(failed)?;
    let id = program.attach().map_err(failed)?;
    Ok(program.take_link(id).map_err(failed)?.into())
}

/// Compares the pinned maps with what this build expects, before anything is changed. Maps that
/// aren't pinned yet are fine.
pub fn check_maps(pins: &Pins) -> Result<(), Error> {
    for expected in layout::MAPS {
        let path = pins.map(expected.name);
        if !path.exists() {
            continue;
        }
        let map = MapData::from_pin(&path).map_err(|source| Error::Map {
            name: expected.name,
            source,
        })?;
        let info = map.info().map_err(|source| Error::Map {
            name: expected.name,
            source,
        })?;
        expected.check(&info).map_err(|difference| Error::Layout {
            name: expected.name,
            difference,
        })?;
    }
    Ok(())
}
