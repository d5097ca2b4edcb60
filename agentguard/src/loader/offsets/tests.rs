//! The resolver on small BTF blobs made here, and on the build host's kernel when it has BTF.

use agentguard_common::offsets::{ABSENT, KernelOffsets};

use std::path::Path;

use super::*;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_CONST: u32 = 10;

/// Writes BTF (Documentation/bpf/btf.rst), little-endian.
#[derive(Default)]
struct Blob {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Blob {
    fn new() -> Self {
        Self {
            strings: vec![0],
            ..Self::default()
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn head(&mut self, name: &str, kind: u32, vlen: u32, size_or_type: u32) -> u32 {
        let name = self.string(name);
        self.words(&[name, kind << 24 | vlen, size_or_type]);
        self.count += 1;
        self.count
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        let id = self.head(name, KIND_INT, 0, bytes);
        self.words(&[bytes * 8]);
        id
    }

    fn refer(&mut self, name: &str, kind: u32, to: u32) -> u32 {
        self.head(name, kind, 0, to)
    }

    /// Members are name, type and offset in bits.
    fn compound(&mut self, name: &str, kind: u32, bytes: u32, members: &[(&str, u32, u32)]) -> u32 {
        let id = self.head(name, kind, members.len() as u32, bytes);
        for (name, kind, bits) in members {
            let name = self.string(name);
            self.words(&[name, *kind, *bits]);
        }
        id
    }

    fn btf(&self) -> Btf {
        let mut out = Vec::new();
        out.extend_from_slice(&0xeb9f_u16.to_le_bytes());
        out.extend_from_slice(&[1, 0]);
        for word in [
            24,
            0,
            self.types.len() as u32,
            self.types.len() as u32,
            self.strings.len() as u32,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.types);
        out.extend_from_slice(&self.strings);
        Btf::from_bytes(&out).expect("the blob is BTF")
    }
}

#[test]
fn descends_into_anonymous_members() {
    let mut blob = Blob::new();
    let int = blob.int("unsigned int", 4);
    let inner = blob.compound("", KIND_STRUCT, 8, &[("hash", int, 0), ("len", int, 32)]);
    let union = blob.compound("", KIND_UNION, 8, &[("", inner, 0)]);
    blob.compound(
        "qstr",
        KIND_STRUCT,
        16,
        &[("before", int, 0), ("", union, 64)],
    );
    assert_eq!(
        find(&blob.btf(), "qstr", "len", Shape::Int(4)).expect("found"),
        12
    );
}

#[test]
fn looks_through_typedefs_and_qualifiers() {
    let mut blob = Blob::new();
    let int = blob.int("unsigned int", 4);
    let alias = blob.refer("dev_t", KIND_TYPEDEF, int);
    let constant = blob.refer("", KIND_CONST, alias);
    blob.compound("super_block", KIND_STRUCT, 8, &[("s_dev", constant, 32)]);
    assert_eq!(
        find(&blob.btf(), "super_block", "s_dev", Shape::Int(4)).expect("found"),
        4
    );
}

#[test]
fn refuses_another_type() {
    let mut blob = Blob::new();
    let int = blob.int("unsigned int", 4);
    let other = blob.compound("other", KIND_STRUCT, 4, &[("x", int, 0)]);
    let pointer = blob.refer("", KIND_PTR, other);
    blob.compound(
        "file",
        KIND_STRUCT,
        16,
        &[("f_inode", pointer, 0), ("f_mode", int, 64)],
    );
    let btf = blob.btf();
    let error = find(&btf, "file", "f_inode", Shape::PointerTo("inode")).expect_err("refused");
    assert_eq!(
        error.to_string(),
        "the kernel's file.f_inode is a pointer to struct other, but the programs read a pointer to struct inode; this kernel is not supported"
    );
    assert!(matches!(
        find(&btf, "file", "f_mode", Shape::Int(8)),
        Err(Error::WrongType { .. })
    ));
}

#[test]
fn refuses_what_is_missing() {
    let mut blob = Blob::new();
    let int = blob.int("unsigned int", 4);
    blob.compound("file", KIND_STRUCT, 4, &[("f_mode", int, 0)]);
    let btf = blob.btf();
    assert!(matches!(
        find(&btf, "file", "f_flags", Shape::Int(4)),
        Err(Error::NoMember {
            member: "f_flags",
            ..
        })
    ));
    assert!(matches!(
        find(&btf, "inode", "i_ino", Shape::Int(8)),
        Err(Error::NoStruct { structure: "inode" })
    ));
}

#[test]
fn refuses_structs_that_disagree_and_takes_those_that_agree() {
    let mut blob = Blob::new();
    let int = blob.int("unsigned int", 4);
    blob.compound("agree", KIND_STRUCT, 8, &[("a", int, 32)]);
    blob.compound("agree", KIND_STRUCT, 12, &[("x", int, 0), ("a", int, 32)]);
    blob.compound("differ", KIND_STRUCT, 8, &[("a", int, 0)]);
    blob.compound("differ", KIND_STRUCT, 8, &[("a", int, 32)]);
    let btf = blob.btf();
    assert_eq!(find(&btf, "agree", "a", Shape::Int(4)).expect("same"), 4);
    assert!(matches!(
        find(&btf, "differ", "a", Shape::Int(4)),
        Err(Error::Ambiguous { .. })
    ));
}

#[test]
fn every_field_of_the_table_is_known() {
    for field in KernelOffsets::NAMES {
        assert!(
            *field == SETATTR
                || [CHANGED_SEC, CHANGED_NSEC].contains(field)
                || WANTED.iter().any(|wanted| wanted.field == *field),
            "no entry for {field}"
        );
    }
}

/// Any kernel with BTF will do; one without leaves the other tests.
#[test]
fn resolves_the_build_hosts_kernel() {
    if !Path::new(KERNEL_BTF).exists() {
        eprintln!("skipped: the build host has no {KERNEL_BTF}");
        return;
    }
    let offsets = resolve(&Btf::from_file(KERNEL_BTF).expect("it can be read"))
        .expect("every member is there");
    assert_ne!(offsets.file_f_path, ABSENT);
    assert_eq!(offsets.path_mnt, 0);
    assert_eq!(offsets.path_dentry, 8);
}
