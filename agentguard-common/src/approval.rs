//! Approvals: what a held action is known by, who may write what about it, and when. Nothing here decides.
//!
//! An action that a rule asks about is *held*: its process is stopped and its system call returns
//! `-ERESTARTNOINTR`, so that the kernel makes the same call again, from the same arguments, when the process
//! continues. Made again, it is judged again from the start: the object is resolved anew, and only an answer for
//! exactly that object lets it through.
//!
//! # `REQUESTS`: one element for each process that is held ([`RequestKey`] to [`Request`])
//!
//! | state | written by | when | what comes next |
//! | --- | --- | --- | --- |
//! | (none) | | | an ask that nothing answers makes it `WAITING` |
//! | [`WAITING`] | the kernel, `BPF_NOEXIST` | on hold, before it stops the process; the record follows | the daemon answers, or the deadline passes |
//! | [`GRANTED`] | the daemon, `BPF_EXIST`, once for an id | a person said yes, once | the kernel takes it, or it lapses (`until_boot_ns`) |
//! | [`TAKEN`] | the kernel, by compare and exchange of [`Request::word`] | the retried call finds it | the same program deletes it at once |
//! | [`REFUSED`] | the daemon, `BPF_EXIST` | no, no room for another prompt, … ([`cause`]) | the kernel deletes it and denies |
//!
//! A call that is made again and finds
//!  * `WAITING` before its deadline stops again, without another record (somebody else sent the SIGCONT);
//!  * `WAITING` after its deadline deletes it and is denied ([`Reason::TimedOut`](crate::event::Reason::TimedOut));
//!  * `GRANTED` goes through, if it is the one whose exchange succeeds; a lapsed one is deleted and asked anew;
//!  * `REFUSED` deletes it and is denied for its cause.
//!
//! What the daemon must keep to:
//!  * It answers only what is `WAITING` under the id that it means: look up, compare [`Request::id`], then update with
//!    `BPF_EXIST`. It never writes [`GRANTED`] twice for an id. (When the kernel deleted it in between, the
//!    update fails, and the action was denied or asked anew under a new id.)
//!  * First the answer, then SIGCONT, to the process that the key names (its start compared; pidfd).
//!  * At the deadline it answers nothing, but for the profile's cool-down writes a refusal (`GRANTS`), and sends SIGCONT: the
//!    kernel denies by its own clock, or for the refusal.
//!  * For each record of a held action it looks whether what it has answered meanwhile covers it, and answers at once.
//!    (A request may be inserted between its enumeration and its answer.)
//!  * It deletes elements of processes that are gone, in whatever state, and those whose deadline passed long ago.
//!
//! # `GRANTS`: what holds for longer than one action ([`GrantKey`] to [`Grant`])
//!
//! Written and deleted by the daemon alone; the kernel only reads. Looked at before `REQUESTS`, in this order:
//! [`grant::RULE`], [`grant::OBJECT`] (either lets the action through), [`grant::REFUSAL`] (denied without a prompt; the
//! kernel deletes the process's own element of `REQUESTS`, if there is one).
//! An element whose `until_boot_ns` is over counts for nothing. Rule numbers belong to an installation: after a reload
//! the daemon writes the rule grants of a session anew under the new `install` and `rule`, and deletes the old.
//!
//! # `CONTROL`
//!
//! [`Control::heartbeat_ns`](crate::label::Control::heartbeat_ns): written by the daemon every second; when it is older than
//! [`HEARTBEAT_NS`] nothing new is held (`ask-unavailable`), while answers that are there still count.
//! [`Control::hash_key`](crate::label::Control::hash_key): random, written by `Tables::open` once while the pins live; as long
//! as it is zero nothing is held. [`Control::requests`](crate::label::Control::requests): the last id, raised by the kernel.
//!
//! # Records
//!
//! Whatever concerns an approval comes on the ring of denials as a record of the kind
//! [`kind::APPROVAL`](crate::event::kind::APPROVAL): an action's record, followed by a [`Note`] (key and request as they stood).
//! The header's `reason` says what happened, its `outcome` stays that of the asking rule, and `flags` has
//! [`FLAG_HELD`](crate::event::FLAG_HELD) when the process is stopped and waits, or
//! [`FLAG_GRANTED`](crate::event::FLAG_GRANTED) when the action went through. [`Request::word`] is 0 in a note of an action
//! that was never held; [`Note::grant`] is [`Grant::id`] of what let it through or refused it, else 0.
//!
//! # Limits
//!
//! The kernel counts what is in `REQUESTS`, so that nothing can leak: at most the profile's `max_pending` different
//! objects (leaders, see [`Request::leader`]) and [`HELD`] processes of one agent wait at a time. The daemon may refuse
//! more strictly with [`cause::TOO_MANY`]. A full map is a denial ([`Reason::NoRoom`](crate::event::Reason::NoRoom)).

/// Elements of `REQUESTS`.
pub const REQUESTS: u32 = 4096;
/// Elements of `GRANTS`.
pub const GRANTS: u32 = 16_384;
/// Processes of one agent that can be held at a time.
pub const HELD: u32 = 512;
/// The daemon isn't there when its sign of life is older than this. It comes every second; on a machine whose processors
/// are all taken it may be late.
pub const HEARTBEAT_NS: u64 = 10_000_000_000;

/// Who asks for what: key of `REQUESTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RequestKey {
    /// The agent's number.
    pub agent: u64,
    /// Start of the process on the boot clock, in nanoseconds, as in [`Process`](crate::event::Process).
    pub start_ns: u64,
    /// The object as the kernel resolved it: SipHash-2-4-128 under a key that no agent knows, over its kind,
    /// inode, device and bytes (of a rename or link: of both names; of a program: of when it was last changed
    /// as well, and where rules look at its arguments, of these).
    pub object: [u64; 2],
    /// The process, in the initial pid namespace.
    pub pid: u32,
    /// [`Action`](crate::event::Action) as a number.
    pub action: u8,
    /// The set of verbs that was asked for at once; for `System` the operation's number.
    pub verbs: u8,
    pub padding: [u8; 2],
}

/// An element waits for an answer.
pub const WAITING: u64 = 1;
/// Somebody said yes, once.
pub const GRANTED: u64 = 2;
/// It isn't to be.
pub const REFUSED: u64 = 3;
/// The yes was used.
pub const TAKEN: u64 = 4;
/// Bits of [`Request::word`] that the state has.
pub const STATE_BITS: u32 = 3;

/// Why a request was refused, or a refusal stands ([`Request::cause`], [`Grant::cause`]).
pub mod cause {
    /// A person, or who may answer for one.
    pub const PERSON: u8 = 1;
    /// Nobody answered in time.
    pub const TIMEOUT: u8 = 2;
    /// The agent has as many prompts waiting as it may.
    pub const TOO_MANY: u8 = 3;
    /// The daemon can't ask.
    pub const UNAVAILABLE: u8 = 4;
}

/// A held action: value of `REQUESTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// The id above [`STATE_BITS`], the state in them: one word, so that an id's state changes atomically.
    pub word: u64,
    /// Id of the request of the same agent that already waited for the same action on the same object when this
    /// one came, or its own: those that share a prompt.
    pub leader: u64,
    /// When it was asked, and until when an answer is waited for (boot clock).
    pub asked_boot_ns: u64,
    pub deadline_boot_ns: u64,
    /// Until when an answer can be used; the daemon's. 0 while it waits.
    pub until_boot_ns: u64,
    /// The asking rule's [`Outcome`](crate::Outcome) and its installation.
    pub outcome: u32,
    pub install: u32,
    /// The agent's slot, and the thread that is held.
    pub slot: u32,
    pub tid: u32,
    /// [`Hook`](crate::counter::Hook), [`ObjectKind`](crate::event::ObjectKind) and the verb that decided, as numbers.
    pub hook: u8,
    pub object_kind: u8,
    pub verb: u8,
    /// [`cause`] of a refusal; the daemon's.
    pub cause: u8,
    /// [`Reason`](crate::event::Reason) of the asking outcome as a number: `Rule`, `Default` or `System`.
    pub asking: u8,
    pub padding: [u8; 3],
}

impl Request {
    #[inline(always)]
    pub const fn id(&self) -> u64 {
        self.word >> STATE_BITS
    }

    #[inline(always)]
    pub const fn state(&self) -> u64 {
        self.word & ((1 << STATE_BITS) - 1)
    }

    /// [`Self::word`] of an id in a state.
    #[inline(always)]
    pub const fn word(id: u64, state: u64) -> u64 {
        id << STATE_BITS | state
    }
}

/// Kinds of [`GrantKey`].
pub mod grant {
    /// The same action on the same object, by whatever process of the agent: `agent`, `action`, `verbs`, `object`.
    pub const OBJECT: u8 = 1;
    /// Everything that a rule asks about: `agent`, `install`, `rule`. Where `rule` is
    /// [`Outcome::DEFAULT_RULE`](crate::Outcome::DEFAULT_RULE), `action` and `verbs` count as well: of a `[default]` the
    /// verb that decided as a set with just it, of `[system]` the operation's number.
    pub const RULE: u8 = 2;
    /// As [`OBJECT`], but it isn't to be.
    pub const REFUSAL: u8 = 3;
}

/// Key of `GRANTS`. What its kind doesn't name is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct GrantKey {
    pub agent: u64,
    pub object: [u64; 2],
    pub install: u32,
    pub rule: u32,
    /// One of [`grant`].
    pub kind: u8,
    pub action: u8,
    pub verbs: u8,
    pub padding: [u8; 5],
}

/// Value of `GRANTS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Grant {
    /// Until when it counts (boot clock); `u64::MAX` for as long as the agent's session.
    pub until_boot_ns: u64,
    /// The request it was given for.
    pub id: u64,
    /// [`cause`] of a refusal.
    pub cause: u8,
    pub padding: [u8; 7],
}

/// What a record about an approval has behind its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Note {
    pub key: RequestKey,
    pub request: Request,
    /// [`Grant::id`] of the grant or refusal that decided; 0 when none did.
    pub grant: u64,
}

impl RequestKey {
    /// The key of a grant, or with [`grant::REFUSAL`] of a refusal, of the same action on the same object.
    #[inline(always)]
    pub const fn grant(&self, kind: u8) -> GrantKey {
        GrantKey {
            agent: self.agent,
            object: self.object,
            install: 0,
            rule: 0,
            kind,
            action: self.action,
            verbs: self.verbs,
            padding: [0; 5],
        }
    }
}

const _: () = {
    assert!(size_of::<RequestKey>() == 40);
    assert!(size_of::<Request>() == 64);
    assert!(size_of::<GrantKey>() == 40);
    assert!(size_of::<Grant>() == 24);
    assert!(size_of::<Note>() == 112);
};
