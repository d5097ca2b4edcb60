//! What one rule says about one action, packed into 32 bits so that a table row holds eight.

/// What is to happen to an action, in the order of strictness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// No rule matched.
    None = 0,
    Allow = 1,
    /// A person decides, and the action is held until then.
    Ask = 2,
    Deny = 3,
    /// Denied, and the process killed.
    Kill = 4,
    /// Denied whatever the profile says, its mode included: what holds the agent, it may not touch. Told as a denial. The
    /// number between is what audit mode is counted under ([`WOULD_DENY`](crate::counter::WOULD_DENY)).
    Never = 6,
}

impl Verdict {
    /// The verdict with this number, or `None` for a number that is none.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            0 => Some(Self::None),
            1 => Some(Self::Allow),
            2 => Some(Self::Ask),
            3 => Some(Self::Deny),
            4 => Some(Self::Kill),
            6 => Some(Self::Never),
            _ => None,
        }
    }
}

/// The winning rule for one verb: its verdict, its flags and its index in the profile's rule table.
///
/// Bits 29–31 verdict, bits 5–28 the rule's index counted down from [`Self::DEFAULT_RULE`], bits 2–4
/// zero, bit 1 whether TLS must name a host that rules open, bit 0 quiet. Of two outcomes the greater number is the stricter, and of two as strict the one
/// with the lower rule index, so that the answer doesn't depend on how rules were spread over
/// automata. Zero is "no rule".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Outcome(pub u32);

impl Outcome {
    pub const NONE: Self = Self(0);
    /// The rule index that stands for the profile's `[default]`.
    pub const DEFAULT_RULE: u32 = 0x00ff_ffff;
    /// The greatest index a rule can have.
    pub const MAX_RULE: u32 = Self::DEFAULT_RULE - 1;

    const QUIET: u32 = 1;
    const SNI: u32 = 2;

    /// An outcome of rule `rule` (at most [`Self::DEFAULT_RULE`]); `quiet` leaves an allowed action
    /// out of the log.
    pub const fn new(verdict: Verdict, quiet: bool, rule: u32) -> Self {
        let quiet = if quiet { Self::QUIET } else { 0 };
        Self((verdict as u32) << 29 | ((Self::DEFAULT_RULE - rule) << 5) | quiet)
    }

    /// The same, of a rule with `sni = "require"`.
    #[must_use]
    pub const fn with_sni(self) -> Self {
        Self(self.0 | Self::SNI)
    }

    /// Whether the connection must begin with a TLS ClientHello that names a host which rules open.
    #[inline(always)]
    pub const fn wants_sni(self) -> bool {
        self.0 & Self::SNI != 0
    }

    /// The verdict's number, in the order of strictness. Not checked; see [`Self::verdict`].
    #[inline(always)]
    pub const fn rank(self) -> u32 {
        self.0 >> 29
    }

    pub const fn verdict(self) -> Option<Verdict> {
        Verdict::from_bits(self.rank())
    }

    #[inline(always)]
    pub const fn is_quiet(self) -> bool {
        self.0 & Self::QUIET != 0
    }

    /// Index into the rule table of the installed policy, or [`Self::DEFAULT_RULE`].
    #[inline(always)]
    pub const fn rule(self) -> u32 {
        Self::DEFAULT_RULE - ((self.0 >> 5) & Self::DEFAULT_RULE)
    }

    /// The same rule's denial.
    #[inline(always)]
    pub const fn denial(self) -> Self {
        Self(self.0 & !(7 << 29) | (Verdict::Deny as u32) << 29)
    }

    /// The stricter of two outcomes.
    #[inline(always)]
    pub const fn stricter(self, other: Self) -> Self {
        if other.0 > self.0 { other } else { self }
    }
}

const _: () = assert!(size_of::<Outcome>() == 4);
