//! Carries out what a remote is told, with the system calls themselves: what a C library would do before
//! or after a call would be in the way of seeing what the kernel does.

use std::{io, thread};

use super::{Act, Arg, Outcome, child, kept_back, narrow, race};

/// Does it. `steps` are the results of the sequence that it is part of.
pub fn perform(act: &Act, steps: &[i64]) -> Outcome {
    match act {
        Act::Call { number, arguments } => Prepared::new(*number, arguments, steps).call(),
        Act::Call32 { number, arguments } => narrow::call(*number, arguments, steps),
        Act::Sequence(acts) => {
            let mut steps = Vec::new();
            for act in acts {
                match perform(act, &steps) {
                    Outcome::Done(result) => steps.push(result),
                    other => return other,
                }
            }
            Outcome::Done(steps.last().copied().unwrap_or(0))
        }
        Act::Repeat { times, act } => {
            let mut outcome = Outcome::Done(0);
            for _ in 0..*times {
                outcome = perform(act, steps);
                if !matches!(outcome, Outcome::Done(_)) {
                    break;
                }
            }
            outcome
        }
        Act::Denied(act) => match perform(act, steps) {
            Outcome::Failed(libc::EPERM) => Outcome::Done(0),
            _ => Outcome::Failed(libc::ENOTRECOVERABLE),
        },
        Act::Thread(act) => thread::scope(|scope| {
            let done = thread::Builder::new().spawn_scoped(scope, || perform(act, steps));
            match done.map(thread::ScopedJoinHandle::join) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Outcome::Failed(libc::EFAULT),
                Err(error) => Outcome::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        }),
        Act::Child { birth, act } => child::perform(*birth, act, steps),
        Act::Exec {
            birth,
            program,
            arguments,
        } => child::exec(*birth, program, arguments),
        Act::SwappingExec {
            program,
            argument,
            other,
            times,
        } => child::swapping_exec(program, argument, other, *times),
        Act::KeptBackExec {
            uffd,
            pages,
            program,
            argument,
        } => kept_back::exec(*uffd, *pages, program, argument),
        Act::RacingConnects {
            local,
            to,
            other,
            times,
        } => race::racing_connects(local, to, other, *times),
        Act::SocketPair { kind } => socket_pair(*kind),
        Act::SendDescriptor { socket, fd } => send_descriptor(*socket, *fd),
        Act::ReceiveDescriptor { socket } => receive_descriptor(*socket),
    }
}

/// The outcome of a call that answers -1 and sets errno.
pub fn outcome(result: i64) -> Outcome {
    if result == -1 {
        Outcome::Failed(
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )
    } else {
        Outcome::Done(result)
    }
}

/// A system call with all that its arguments point to.
pub struct Prepared {
    number: i64,
    registers: [i64; 6],
    /// Keeps alive what the registers point to.
    _memory: Vec<Vec<u8>>,
}

impl Prepared {
    pub fn new(number: i64, arguments: &[Arg], steps: &[i64]) -> Self {
        let mut memory = Vec::new();
        let mut registers = [0; 6];
        for (register, argument) in registers.iter_mut().zip(arguments) {
            *register = place(argument, steps, &mut memory);
        }
        Self {
            number,
            registers,
            _memory: memory,
        }
    }

    /// Makes the call. Uses nothing but registers and errno, so that a child that shares its parent's
    /// memory may do it.
    pub fn call(&self) -> Outcome {
        let [a, b, c, d, e, f] = self.registers;
        // SAFETY: every pointer among the registers is to memory that is kept and is as long as the case
        // says; whether that suits the call is what a case is about.
        outcome(unsafe { libc::syscall(self.number, a, b, c, d, e, f) })
    }
}

/// The register for an argument; what it points to goes into `memory`.
fn place(argument: &Arg, steps: &[i64], memory: &mut Vec<Vec<u8>>) -> i64 {
    let mut keep = |bytes: Vec<u8>| {
        // The bytes don't move when the vector that holds them does.
        let address = bytes.as_ptr() as i64;
        memory.push(bytes);
        address
    };
    match argument {
        Arg::Int(number) => *number,
        Arg::Step(step) => steps.get(*step).copied().unwrap_or(-1),
        Arg::Bytes(bytes) => keep(bytes.clone()),
        Arg::Struct { bytes, pointers } => {
            let mut bytes = bytes.clone();
            for (offset, argument) in pointers {
                let address = place(argument, steps, memory);
                bytes[*offset..*offset + 8].copy_from_slice(&address.to_ne_bytes());
            }
            let address = bytes.as_ptr() as i64;
            memory.push(bytes);
            address
        }
    }
}

fn socket_pair(kind: i32) -> Outcome {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
    if made == 0 && ends[1] != ends[0] + 1 {
        // A gap among the numbers in use: the next two are beside each other.
        return socket_pair(kind);
    }
    match made {
        0 => Outcome::Done(i64::from(ends[0])),
        _ => outcome(-1),
    }
}

/// Room for one descriptor in a control message.
const CONTROL_BYTES: usize = 24;

/// Sends the descriptor `fd` over the Unix socket `socket`.
pub fn send_descriptor(socket: i32, fd: i32) -> Outcome {
    // SAFETY: the macros get a message whose control buffer is as long as it says.
    unsafe {
        let mut control = [0_u64; CONTROL_BYTES / 8];
        let mut byte = [0_u8];
        let mut part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let message = message(&mut part, &mut control);
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd);
        outcome(libc::sendmsg(socket, &message, 0) as i64)
    }
}

fn receive_descriptor(socket: i32) -> Outcome {
    // SAFETY: as above.
    unsafe {
        let mut control = [0_u64; CONTROL_BYTES / 8];
        let mut byte = [0_u8];
        let mut part = libc::iovec {
            iov_base: byte.as_mut_ptr().cast(),
            iov_len: 1,
        };
        let mut message = message(&mut part, &mut control);
        let received = libc::recvmsg(socket, &mut message, 0);
        if received < 0 {
            return outcome(received as i64);
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            // The kernel cuts off what may not be received (net/core/scm.c, scm_detach_fds).
            return Outcome::Failed(libc::EBADMSG);
        }
        Outcome::Done(i64::from(
            libc::CMSG_DATA(header).cast::<i32>().read_unaligned(),
        ))
    }
}

fn message(part: &mut libc::iovec, control: &mut [u64; CONTROL_BYTES / 8]) -> libc::msghdr {
    // SAFETY: all zeros is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    message
}
