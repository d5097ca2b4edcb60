//! Every limit that both sides must agree on, with its reason. No behaviour.

/// Longest path that can be judged, in bytes, without a terminator (`PATH_MAX` less its NUL).
/// A longer one is denied with [`Reason::PathTooLong`](crate::event::Reason::PathTooLong).
pub const PATH_BYTES: usize = 4095;

/// Longest name of one directory entry, in bytes (`NAME_MAX`, include/uapi/linux/limits.h).
pub const NAME_BYTES: usize = 255;

/// Mount points plus path components that are climbed at most from an object to its root. A path of
/// [`PATH_BYTES`] has at most 2,047 components of one byte; the rest is room for mounts.
pub const CLIMB_STEPS: u32 = 2304;

/// Automata per subject of one profile, stepped together and combined by strictness.
pub const AUTOMATA: usize = 4;

/// Identities that may be met on the way from one object to its root. One more is a denial.
pub const ALIASES: usize = 8;

/// Mounts of one file system, over all mount namespaces, among which the names of an entry are looked for. A service
/// manager gives each service with a sandbox a few of its own. With more it is a denial.
pub const MOUNTS: u32 = 1 << 16;

/// Mounts of one file system in one mount namespace by which an entry can have a name. One more is a denial.
pub const NAMES: u32 = 64;

/// Agents known to the kernel at one time: the size of the `AGENTS` map.
pub const AGENTS: u32 = 4096;

/// Profiles that can be in force at one time: the size of the `PROFILES` map.
pub const PROFILES: u32 = 1024;

/// Tagged cgroups at one time: the size of the `TAGS` map.
pub const TAGS: u32 = 8192;

/// Depth of cgroup that can be tagged: the levels 1 to 31 (the root is level 0 and can't be tagged).
pub const TAG_LEVELS: u32 = 32;

/// Identities of literally named files and directories, over all profiles and both generations.
pub const IDENTITIES: u32 = 65_536;

/// Cells of 8 bytes in the `AUTOMATON` arena unless the daemon's configuration says otherwise: room
/// for two generations of 16 MiB each.
pub const ARENA_CELLS: u32 = 4 << 20;

/// Bytes of a program's path that are kept for its events; longer ones are cut and marked.
pub const EXE_BYTES: usize = 256;

/// Bytes of a program's arguments (NUL-separated) that are kept for its events.
pub const ARGS_BYTES: usize = 512;

/// Bytes of a program's path that are kept while it is being started, for the event about its arguments; longer
/// ones are cut and marked.
pub const PROGRAM_BYTES: usize = 256;

/// Longest arguments that rules can look at, in bytes, `argv[0]` and every NUL included: what is left of the
/// place for a path of [`PATH_BYTES`]. Where more would have to be seen for a verdict, it is a denial with
/// [`Reason::ArgumentsTooLong`](crate::event::Reason::ArgumentsTooLong).
pub const ARGUMENTS_BYTES: usize = PATH_BYTES - PROGRAM_BYTES;

/// Files (a script, its interpreter and so on) of one start of a program whose rules look at arguments. One
/// more is a denial.
pub const ROUNDS: usize = 4;

/// Ways, over all these files, in which rules that look at arguments can be met: by a path and by each identity
/// on it. One more is a denial.
pub const LANES: usize = 16;

/// Size in bytes of the ring for denials, asks and lifecycle.
pub const DENIALS_BYTES: u32 = 4 << 20;

/// Size in bytes of the ring for allowed actions.
pub const EVENTS_BYTES: u32 = 8 << 20;

/// Addresses that names were answered with, over all agents and both generations: the size of the `NAME_GRANTS` map.
pub const NAME_GRANTS: u32 = 65_536;

/// Destinations that agents were let go to because of a name, over all agents: the size of the `DESTINATIONS` map, which
/// forgets the one that was used the longest ago. A connection that is there stays known by its socket.
pub const DESTINATIONS: u32 = 65_536;

/// Network namespaces with a resolver at one time: the size of the `RESOLVERS` map.
pub const RESOLVERS: u32 = 4096;

/// Sockets that asked a resolver lately: the size of the `QUESTIONS` map. One that is forgotten gets no answer, and
/// asks again.
pub const QUESTIONS: u32 = 8192;
