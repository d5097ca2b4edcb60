//! Rules about hosts: what the names say that an address was looked up by. The daemon's resolver writes them into
//! `NAME_GRANTS` before the agent has its answer (`resolver`); here they are only read.
//!
//! A name isn't walked again. The daemon has done that, and wrote down where the automata stand after it; here they go
//! on with the protocol and the port.

use agentguard_common::{
    Decision, Engine as _, Outcome, Question,
    address::{V4, V6, is_same},
    automaton::ABSENT,
    decide::{Text, answer, with_names},
    label::{OBJECT_BYTES, SOCKET_WANTS_SNI, Socket, TaskState},
    limits::ALIASES,
    name::{DestinationKey, NAMES, NameGrant, NameKey},
    profile::{self, Subject as Kind, subject_cell, verb},
};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

use crate::{
    engine::{Arena, Workspace, fresh, reason},
    kernel,
    maps::{DESTINATIONS, NAME_GRANTS},
    object,
    subject::Subject,
};

/// Index in the object of an address's port, and of the byte before it.
const PORT: usize = OBJECT_BYTES - 2;
const BEFORE_PORT: usize = PORT - 1;

/// Whether a rule of the profile names a host. Only then are lookups the daemon's business.
#[inline(always)]
pub fn are_named(profile: u32) -> bool {
    use agentguard_common::automaton::Tables as _;
    // FAIL-CLOSED: where a cell is missing, nothing is allowed by its name.
    Arena
        .cell(subject_cell(profile, Kind::Name as u32))
        .is_some_and(|cell| cell as u32 != ABSENT)
}

/// What the rules come to, of which those about addresses said `decision` about the one in the workspace.
#[inline(always)]
pub fn judge(subject: &Subject, decision: Decision) -> Decision {
    let state = subject.state;
    Workspace { state }.set_decision(decision);
    judge_names(state, subject.profile, subject.agent);
    Workspace { state }.decision()
}

/// VERIFIER: a program of its own; the decision before and after it is in the workspace.
#[inline(never)]
pub fn judge_names(state: *mut TaskState, profile: u32, agent: u64) -> u32 {
    let Some((install, _, _)) = profile::header(&Arena, profile) else {
        // Whoever carries the decision out finds that, and refuses.
        return 0;
    };
    let known = recall(state, agent, install);
    if known == 0 || known > ALIASES as u32 {
        return 0;
    }
    // SAFETY: the task's own map value; constants inside of it.
    unsafe {
        let asked = &raw const (*state).asked;
        let (outcome, verb, why) = (
            fresh(&raw const (*asked).outcome),
            fresh(&raw const (*asked).verb),
            fresh(&raw const (*asked).reason),
        );
        let object = (&raw mut (*state).object).cast::<u8>();
        let first = core::ptr::read_volatile(&raw const (*state).climb.start) as usize;
        if first > BEFORE_PORT {
            return 0;
        }
        // What comes after the name is the protocol and the port: the protocol takes the place of the address's last
        // byte for as long as that is asked.
        let protocol = core::ptr::read_volatile(object.add(first));
        let before = core::ptr::read_volatile(object.add(BEFORE_PORT));
        core::ptr::write_volatile(object.add(BEFORE_PORT), protocol);
        (*state).climb.aliases = known;
        let mut workspace = Workspace { state };
        workspace.ask(
            profile,
            Question {
                subject: Kind::Name,
                verbs: verb::bit(verb::ONLY),
                text: Text::Named,
            },
        );
        let names = answer(&mut workspace);
        core::ptr::write_volatile(object.add(BEFORE_PORT), before);
        (*state).climb.aliases = 0;
        let address = Decision {
            outcome: Outcome(outcome),
            verb: verb as u8,
            reason: reason(why),
        };
        workspace.set_decision(with_names(address, names));
    }
    0
}

/// Puts where the automata stand after the names of the address in the workspace into `aliases`. How many.
#[inline(always)]
fn recall(state: *mut TaskState, agent: u64, install: u32) -> u32 {
    let [first, second, third] = object::address_words(state);
    let family = (first >> 8) as u8;
    let host = if family == V4 {
        // In network order: ten bytes of zero, two of ones, the IPv4 address.
        [0, 0xffff_0000 | (first >> 16) << 32]
    } else if family == V6 {
        [first >> 16 | second << 48, second >> 16 | third << 48]
    } else {
        return 0;
    };
    let key = NameKey {
        agent,
        address: host,
        install,
        padding: 0,
    };
    let Some(grant) = NAME_GRANTS.get_ptr(key) else {
        return 0;
    };
    // SAFETY: a map value, and the task's own; the copy has the size of both, as `NamedState` and `Alias` have.
    unsafe {
        let serial = core::ptr::read_volatile(&raw const (*grant).serial);
        let aliases = (&raw mut (*state).aliases).cast::<u8>();
        if !kernel::copy(
            aliases,
            size_of::<[agentguard_common::name::NamedState; NAMES]>() as u32,
            (&raw const (*grant).names).cast(),
        ) {
            return 0;
        }
        let count = core::ptr::read_volatile(&raw const (*grant).count);
        (*state).asked.class = core::ptr::read_volatile(&raw const (*grant).class);
        if !is_whole(grant, serial, agent, install) {
            // FAIL-CLOSED: somebody else's by now, and nothing that could be believed.
            return 0;
        }
        let now = bpf_ktime_get_boot_ns();
        let mut known = 0;
        while known < ALIASES {
            let alias = (&raw mut (*state).aliases)
                .cast::<agentguard_common::name::NamedState>()
                .add(known);
            let expires_ns = core::ptr::read_volatile(&raw const (*alias).expires_ns);
            if known as u32 >= count || expires_ns <= now {
                break;
            }
            let alias = alias.cast::<agentguard_common::decide::Alias>();
            core::ptr::write_volatile(&raw mut (*alias).from, BEFORE_PORT as u32);
            known += 1;
        }
        known as u32
    }
}

/// Notes that a socket was let go to the address in the workspace because of a name.
///
/// # Safety
/// `note` is what is known of the socket.
#[inline(always)]
pub unsafe fn let_go(subject: &Subject, note: *mut Socket, address: [u64; 3], outcome: Outcome) {
    let Some((install, _, _)) = profile::header(&Arena, subject.profile) else {
        // FAIL-CLOSED: its packets don't leave.
        return;
    };
    // SAFETY: the caller's.
    unsafe {
        (*note).named = address;
        (*note).named_install = install;
        if outcome.wants_sni() {
            (*note).hello.class = core::ptr::read_volatile(&raw const (*subject.state).asked.class);
            (*note).flags |= SOCKET_WANTS_SNI;
        } else {
            (*note).flags &= !SOCKET_WANTS_SNI;
        }
        // FAIL-CLOSED: where there is no room, only packets of this socket leave, and only to the last such address.
        let _ = DESTINATIONS.insert(
            key(subject.agent, address, install),
            bpf_ktime_get_boot_ns(),
            0,
        );
    }
}

/// Whether an agent was let go to a packet's other end because of a name, by the profile as it is now.
#[inline(always)]
pub fn was_let_go(socket: &Socket, profile: u32, address: [u64; 3]) -> bool {
    let Some((install, _, _)) = profile::header(&Arena, profile) else {
        // FAIL-CLOSED: where the descriptor should be is something else.
        return false;
    };
    if socket.named_install == install && is_same(socket.named, address) {
        return address[0] != 0;
    }
    // SAFETY: only whether it is there counts.
    unsafe { DESTINATIONS.get(key(socket.agent, address, install)) }.is_some()
}

#[inline(always)]
const fn key(agent: u64, address: [u64; 3], install: u32) -> DestinationKey {
    DestinationKey {
        agent,
        address,
        install,
        padding: 0,
    }
}

/// Whether an element was not freed and used again since its serial was read.
///
/// # Safety
/// `grant` is a map value.
#[inline(always)]
unsafe fn is_whole(grant: *const NameGrant, serial: u64, agent: u64, install: u32) -> bool {
    // SAFETY: the caller's.
    unsafe {
        core::ptr::read_volatile(&raw const (*grant).serial_again) == serial
            && core::ptr::read_volatile(&raw const (*grant).serial) == serial
            && core::ptr::read_volatile(&raw const (*grant).key.agent) == agent
            && core::ptr::read_volatile(&raw const (*grant).key.install) == install
    }
}

const _: () = {
    use agentguard_common::{decide::Alias, name::NamedState};
    assert!(size_of::<Alias>() == size_of::<NamedState>());
    assert!(core::mem::offset_of!(Alias, states) == core::mem::offset_of!(NamedState, states));
    assert!(core::mem::offset_of!(Alias, from) == core::mem::offset_of!(NamedState, expires_ns));
    assert!(NAMES == ALIASES);
};
