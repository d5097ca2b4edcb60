//! What the kernel's verifier made of every program, against the budget in `tests/budget.toml`: growth must
//! be noticed before a kernel refuses a program, and so must a program of which the verifier believes that
//! most of it can never run.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::ProgramInfo;
use serde::Deserialize;

use crate::{bench::Bench, scene::Case};

const BUDGET: &str = include_str!("../../budget.toml");
/// Where the daemon pins programs.
pub const PROGRAMS: &str = "/sys/fs/bpf/agentguard/progs";
/// What a program may be of its budget, in percent. KERNEL: 6.18 once took a condition for certain and left
/// 9 instructions of a program.
const PERCENT: std::ops::RangeInclusive<u64> = 70..=110;
/// The most instructions that any kernel of the matrix looks at in one program (include/linux/bpf.h,
/// `BPF_COMPLEXITY_LIMIT_INSNS`), and the part of it that may be used, in percent.
const LIMIT: (u64, u64) = (1_000_000, 75);
/// The deepest stack that a call chain may have, in bytes (`MAX_BPF_STACK`, include/linux/filter.h).
const STACK: i64 = 512;

pub fn cases() -> Vec<Case> {
    vec![Case::new("budget::verifier", verifier)]
}

/// A program's part of the budget, by kernel series.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    /// Instructions that the verifier looked at, every way through the program.
    verified: BTreeMap<String, u64>,
    /// Instructions that it left of the program.
    left: BTreeMap<String, u64>,
    /// The deepest frame of any of its functions, in bytes. The same on every kernel.
    frame: i64,
}

/// What the kernel says of a program.
struct Found {
    verified: u64,
    left: u64,
    frame: i64,
}

fn verifier(_: &mut Bench) -> Result<()> {
    let budget: BTreeMap<String, Budget> = toml::from_str(BUDGET).context("tests/budget.toml")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let series: String = release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(PROGRAMS).context("the pinned programs")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        found.insert(name, ask_kernel(&entry.path())?);
    }
    let mut wrong = Vec::new();
    for (name, found) in &found {
        let Some(budget) = budget.get(name) else {
            wrong.push(format!("{name} has no budget"));
            continue;
        };
        for (what, is, may) in [
            ("verified", found.verified, budget.verified.get(&series)),
            ("left", found.left, budget.left.get(&series)),
        ] {
            let may = may.copied().unwrap_or(0);
            if is * 100 < may * PERCENT.start() || is * 100 > may * PERCENT.end() {
                wrong.push(format!("{name}: {is} instructions {what}, budget {may}"));
            }
        }
        if found.verified * 100 > LIMIT.0 * LIMIT.1 {
            wrong.push(format!("{name}: no room to spare below the kernel's limit"));
        }
        if found.frame != budget.frame || found.frame > STACK {
            let (is, may) = (found.frame, budget.frame);
            wrong.push(format!("{name}: a frame of {is} bytes, budget {may}"));
        }
    }
    for (name, budget) in &budget {
        // Without a figure for this kernel, it is one that this kernel has no hook for.
        if !found.contains_key(name) && budget.verified.contains_key(&series) {
            wrong.push(format!("{name} is not pinned"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let mut table = String::new();
    for (name, found) in found {
        table += &format!(
            "{name} {series} verified {} left {} frame {}\n",
            found.verified, found.left, found.frame
        );
    }
    bail!("{}\nas found:\n{table}", wrong.join("\n"))
}

fn ask_kernel(pin: &Path) -> Result<Found> {
    let info =
        ProgramInfo::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
    let verified = info.verified_instruction_count();
    let instructions = instructions(pin)?;
    Ok(Found {
        verified: verified
            .context("the kernel doesn't say what it verified")?
            .into(),
        left: instructions.len() as u64,
        frame: frame(&instructions),
    })
}

/// `struct bpf_insn` (include/uapi/linux/bpf.h).
#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

/// The deepest place below the frame pointer that an access or an address names.
fn frame(instructions: &[Instruction]) -> i64 {
    const FRAME_POINTER: u8 = 10;
    // Classes LDX 1, ST 2, STX 3 (Documentation/bpf/standardization/instruction-set.rst).
    let by_access = instructions.iter().filter_map(|instruction| {
        let base = match instruction.code & 7 {
            1 => instruction.source,
            2 | 3 => instruction.destination,
            _ => return None,
        };
        (base == FRAME_POINTER).then_some(-i64::from(instruction.offset))
    });
    // mov64 REG, r10, then add64 REG, -N.
    let by_address = instructions.windows(2).filter_map(|pair| {
        let is_copy = pair[0].code == 0xbf && pair[0].source == FRAME_POINTER;
        let is_sum = pair[1].code == 0x07 && pair[1].destination == pair[0].destination;
        (is_copy && is_sum).then_some(-i64::from(pair[1].immediate))
    });
    by_access.chain(by_address).max().unwrap_or(0)
}

/// The instructions that the verifier left, as the kernel shows them.
fn instructions(pin: &Path) -> Result<Vec<Instruction>> {
    let program = object_get(pin)?;
    let length = program_info(&program, &mut [])?;
    let mut bytes = vec![0; length];
    program_info(&program, &mut bytes)?;
    let decode = |bytes: &[u8]| Instruction {
        code: bytes[0],
        destination: bytes[1] & 15,
        source: bytes[1] >> 4,
        offset: i16::from_le_bytes([bytes[2], bytes[3]]),
        immediate: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    Ok(bytes.chunks_exact(8).map(decode).collect())
}

/// `bpf(cmd, attr, size)` with an attribute of at most 16 bytes.
fn bpf(command: i32, attribute: [u64; 2]) -> Result<i32> {
    // SAFETY: the attribute is as long as it says; what it points to is the callers' own.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), 16) };
    ensure!(
        result >= 0,
        "bpf({command}): {}",
        std::io::Error::last_os_error()
    );
    Ok(result as i32)
}

fn object_get(pin: &Path) -> Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    const BPF_OBJ_GET: i32 = 7;
    let path = std::ffi::CString::new(pin.as_os_str().as_encoded_bytes())?;
    let fd = bpf(BPF_OBJ_GET, [path.as_ptr() as u64, 0])?;
    // SAFETY: a new descriptor that is nobody else's.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}

/// Fills `bytes` with the instructions and returns their whole length in bytes.
fn program_info(program: &std::os::fd::OwnedFd, bytes: &mut [u8]) -> Result<usize> {
    use std::os::fd::AsRawFd as _;
    const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
    // struct bpf_prog_info: xlated_prog_len at 20, xlated_prog_insns at 32.
    let mut info = [0_u8; 40];
    info[20..24].copy_from_slice(&(bytes.len() as u32).to_ne_bytes());
    info[32..40].copy_from_slice(&(bytes.as_mut_ptr() as u64).to_ne_bytes());
    let lengths = (info.len() as u64) << 32 | program.as_raw_fd() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, [lengths, info.as_mut_ptr() as u64])?;
    let length: [u8; 4] = info[20..24].try_into()?;
    Ok(u32::from_ne_bytes(length) as usize)
}
