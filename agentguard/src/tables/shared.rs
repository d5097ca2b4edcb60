//! Structs that the kernel reads and writes, as bytes and back. Checked by length; no enums, no
//! references.

use agentguard_common::{
    approval::{Grant, GrantKey, Note, Request, RequestKey},
    event::{Process, RecordHeader, Target},
    identity::{Identity, IdentityKey},
    label::{Agent, Control, Label, Socket, Tag},
    name::{DestinationKey, NameGrant, NameKey, QuestionFrom, QuestionKey, Resolver},
};
use aya::Pod;

/// A struct of `agentguard-common` that travels between kernel and userspace as it lies in memory.
///
/// # Safety
///
/// It must be `repr(C)`, made of integers and byte arrays only, without padding of the compiler's:
/// every byte of it is initialised, and every pattern of bytes is a value of it.
pub unsafe trait Shared: Copy + 'static {
    /// The struct at the front of `bytes`, wherever it lies; `None` when they are too few.
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: there are enough bytes, alignment isn't asked for, and by the trait's contract
        // every pattern is a value.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }

    /// The struct's bytes.
    fn bytes(&self) -> &[u8] {
        // SAFETY: by the trait's contract every byte is initialised; the slice borrows `self`.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

macro_rules! shared {
    ($($type:ty,)*) => {
        $(
            // SAFETY: `repr(C)`, integers and byte arrays, explicit padding; its size is asserted
            // where it is defined.
            unsafe impl Shared for $type {}
        )*
    };
}

shared! {
    Grant,
    GrantKey,
    Note,
    Request,
    RequestKey,
    Agent,
    Control,
    DestinationKey,
    Identity,
    IdentityKey,
    Label,
    NameGrant,
    NameKey,
    Process,
    QuestionFrom,
    QuestionKey,
    RecordHeader,
    Resolver,
    Socket,
    Tag,
    Target,
}

/// A shared struct as aya's maps want it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: aya asks of `Pod` what `Shared` promises.
unsafe impl<T: Shared> Pod for Plain<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_survives_its_bytes() {
        let tag = Tag {
            agent: 0x1122_3344_5566_7788,
            slot: 7,
            padding: 0,
        };
        assert_eq!(Tag::read(tag.bytes()), Some(tag));
        assert_eq!(Tag::read(&tag.bytes()[1..]), None);
        let mut shifted = vec![0xff];
        shifted.extend_from_slice(tag.bytes());
        assert_eq!(Tag::read(&shifted[1..]), Some(tag));
    }
}
