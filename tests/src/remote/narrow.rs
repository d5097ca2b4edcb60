//! 32-bit system calls of a 64-bit program (`int 0x80`), whose addresses and list entries are of 4 bytes.

use std::ptr;

use super::{Arg, Outcome, perform::outcome};

/// Room for what the arguments of one call point to.
const ROOM: usize = 1 << 16;

/// Memory below 2 GiB, and how much of it is in use.
struct Low {
    start: u32,
    used: usize,
}

impl Low {
    fn new() -> Option<Self> {
        // SAFETY: new memory of nobody else.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                ROOM,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        (start != libc::MAP_FAILED).then_some(Self {
            start: start as u32,
            used: 0,
        })
    }

    /// Puts bytes into it; `None` when they don't fit.
    fn keep(&mut self, bytes: &[u8]) -> Option<u32> {
        let at = self.used.next_multiple_of(8);
        let end = at.checked_add(bytes.len()).filter(|end| *end <= ROOM)?;
        let address = self.start + at as u32;
        // SAFETY: inside of the memory, which nobody else knows.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), address as usize as *mut u8, bytes.len())
        };
        self.used = end;
        Some(address)
    }

    /// The register for an argument.
    fn place(&mut self, argument: &Arg, steps: &[i64]) -> Option<u32> {
        Some(match argument {
            Arg::Int(number) => *number as u32,
            Arg::Step(step) => steps.get(*step).copied().unwrap_or(-1) as u32,
            Arg::Bytes(bytes) => self.keep(bytes)?,
            Arg::Struct { bytes, pointers } => {
                let mut bytes = bytes.clone();
                for (offset, argument) in pointers {
                    let address = self.place(argument, steps)?;
                    bytes[*offset..*offset + 4].copy_from_slice(&address.to_ne_bytes());
                }
                self.keep(&bytes)?
            }
        })
    }
}

/// Makes the call.
pub fn call(number: i64, arguments: &[Arg], steps: &[i64]) -> Outcome {
    let Some(mut low) = Low::new() else {
        return outcome(-1);
    };
    let mut registers = [0_u64; 5];
    if arguments.len() > registers.len() {
        return Outcome::Failed(libc::EINVAL);
    }
    for (register, argument) in registers.iter_mut().zip(arguments) {
        match low.place(argument, steps) {
            Some(place) => *register = place.into(),
            None => return Outcome::Failed(libc::E2BIG),
        }
    }
    let [first, second, third, fourth, fifth] = registers;
    let result: i64;
    // SAFETY: what the call is given is as long as the case says. `rbx` is the compiler's, and is given back.
    unsafe {
        std::arch::asm!(
            "xchg {first}, rbx",
            "int 0x80",
            "xchg {first}, rbx",
            first = inout(reg) first => _,
            inout("rax") number => result,
            in("rcx") second,
            in("rdx") third,
            in("rsi") fourth,
            in("rdi") fifth,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
        );
        libc::munmap(low.start as usize as *mut libc::c_void, ROOM);
    }
    match result as i32 {
        errno @ -4095..=-1 => Outcome::Failed(-errno),
        done => Outcome::Done(done.into()),
    }
}
