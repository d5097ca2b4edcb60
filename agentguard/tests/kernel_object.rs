//! What the embedded kernel object must not do, whatever the compiler makes of the source.

use std::collections::{BTreeSet, HashMap};

use agentguard::loader::OBJECT;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex,
    SectionKind, SymbolKind,
};

/// The frame pointer.
const R10: u8 = 10;

/// One instruction (Documentation/bpf/standardization/instruction-set.rst).
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        Self {
            code: bytes[0],
            destination: bytes[1] & 0xf,
            source: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            immediate: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    fn class(self) -> u8 {
        self.code & 7
    }

    fn is_load(self) -> bool {
        self.class() == 1
    }

    fn is_wide(self) -> bool {
        self.code == 0x18
    }

    fn is_arithmetic(self) -> bool {
        matches!(self.class(), 4 | 7)
    }

    fn is_jump(self) -> bool {
        matches!(self.class(), 5 | 6)
    }

    fn is_call(self) -> bool {
        self.code == 0x85
    }

    fn is_local_call(self) -> bool {
        self.is_call() && self.source == 1
    }

    /// Where it can go on from `at`.
    fn next(self, at: usize) -> Vec<usize> {
        let target = |distance: i32| (at as i64 + 1 + i64::from(distance)) as usize;
        match self.code {
            0x95 => Vec::new(),
            0x05 => vec![target(self.offset.into())],
            0x06 => vec![target(self.immediate)],
            _ if self.is_wide() => vec![at + 2],
            _ if self.is_jump() && !self.is_call() => vec![at + 1, target(self.offset.into())],
            _ => vec![at + 1],
        }
    }

    /// The registers that hold an address on the stack after it, if `before` did so before it.
    fn step(self, before: &BTreeSet<u8>) -> BTreeSet<u8> {
        let mut after = before.clone();
        if self.is_call() {
            (0..=5).for_each(|register| {
                after.remove(&register);
            });
        // A copy, or a number plus a pointer.
        } else if matches!(self.code, 0xbf | 0x0f) && before.contains(&self.source) {
            after.insert(self.destination);
        } else if self.is_load()
            || self.is_wide()
            || (self.is_arithmetic() && self.code & 0xf0 == 0xb0)
        {
            after.remove(&self.destination);
        }
        after
    }
}

struct Function {
    name: String,
    code: Vec<Instruction>,
    /// Its address is taken: what a helper calls, which passes the address of a context on its caller's stack in
    /// this register.
    callback: Option<u8>,
}

fn functions() -> Vec<Function> {
    let object = object::File::parse(OBJECT).expect("an ELF file");
    let callbacks = callbacks(&object);
    object
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .map(|symbol| {
            let index = symbol.section_index().expect("in a section");
            let section = object.section_by_index(index).expect("that is there");
            let bytes = section
                .data_range(symbol.address(), symbol.size())
                .expect("readable")
                .expect("inside");
            Function {
                name: symbol.name().expect("a name").to_owned(),
                code: bytes.chunks_exact(8).map(Instruction::read).collect(),
                callback: callbacks.get(&(index, symbol.address())).copied(),
            }
        })
        .collect()
}

/// Section and address of each function whose address some instruction loads, and the register in which it gets its
/// context.
fn callbacks(object: &object::File) -> HashMap<(SectionIndex, u64), u8> {
    let mut found = HashMap::new();
    for section in object.sections() {
        let Ok(data) = section.data() else { continue };
        for (at, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = object.symbol_by_index(index).expect("a symbol");
            let Some(target) = symbol.section_index() else {
                continue;
            };
            let text = object
                .section_by_index(target)
                .is_ok_and(|section| section.kind() == SectionKind::Text);
            let Some(bytes) = data.get(at as usize..).and_then(|data| data.get(..8)) else {
                continue;
            };
            let instruction = Instruction::read(bytes);
            if text && section.kind() == SectionKind::Text && instruction.is_wide() {
                let address = symbol.address() + instruction.immediate as u64;
                found.insert((target, address), context(&data[at as usize..]));
            }
        }
    }
    found
}

/// The register in which the helper that is called next passes a context on (include/uapi/linux/bpf.h).
fn context(code: &[u8]) -> u8 {
    const FOR_EACH_MAP_ELEM: i32 = 164;
    const LOOP: i32 = 181;
    code.chunks_exact(8)
        .map(Instruction::read)
        .filter(|instruction| instruction.is_call() && instruction.source == 0)
        .find_map(|call| match call.immediate {
            FOR_EACH_MAP_ELEM => Some(4),
            LOOP => Some(2),
            _ => None,
        })
        .expect("a helper that takes a function")
}

/// Places of `function` at which a register other than the frame pointer is read through or passed on
/// while it points to the stack.
fn stack_accesses(function: &Function) -> Vec<String> {
    let mut before = vec![None::<BTreeSet<u8>>; function.code.len()];
    let entry = BTreeSet::from_iter([R10].into_iter().chain(function.callback));
    let mut work = vec![(0, entry)];
    while let Some((at, mut registers)) = work.pop() {
        if let Some(known) = &before[at] {
            if registers.is_subset(known) {
                continue;
            }
            registers.extend(known);
        }
        let instruction = function.code[at];
        let after = instruction.step(&registers);
        before[at] = Some(registers);
        work.extend(
            instruction
                .next(at)
                .into_iter()
                .map(|next| (next, after.clone())),
        );
    }
    let mut found = Vec::new();
    for (at, (instruction, registers)) in function.code.iter().zip(&before).enumerate() {
        let Some(registers) = registers else {
            continue;
        };
        let reads = instruction.is_load()
            && instruction.source != R10
            && registers.contains(&instruction.source);
        // A context is one pointer or two, and pointers are followed.
        let context = function.callback.is_some()
            && instruction.code == 0x79
            && matches!(instruction.offset, 0 | 8);
        let passes =
            instruction.is_local_call() && (1..=5).any(|register| registers.contains(&register));
        if (reads && !context) || passes {
            found.push(format!("{} at {at}: {instruction:?}", function.name));
        }
    }
    found
}

/// Before 6.8 the verifier doesn't follow numbers that are read from the stack through another register
/// than the frame pointer (mainline 41f6f64e6999 does). It takes two states that differ in them alone for
/// the same, looks at one of them, and may cut out a branch that only the other one takes: on 6.1 it once
/// made `unix_stream_connect` deny what the profile allowed, and it could as well make it allow.
#[test]
fn numbers_are_read_from_the_stack_through_the_frame_pointer_alone() {
    let functions = functions();
    assert!(functions.len() > 22, "only {} functions", functions.len());
    let callbacks = functions
        .iter()
        .filter(|function| function.callback.is_some());
    assert!(callbacks.count() > 10, "not all callbacks were found");
    let found: Vec<String> = functions.iter().flat_map(stack_accesses).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The test above finds what it looks for.
#[test]
fn a_read_through_another_register_is_found() {
    let code = |bytes: [u8; 8]| Instruction::read(&bytes);
    let function = Function {
        name: "reader".to_owned(),
        code: vec![
            code([0xbf, 0xa2, 0, 0, 0, 0, 0, 0]),
            code([0x07, 0x02, 0, 0, 0xf8, 0xff, 0xff, 0xff]),
            code([0x79, 0x20, 0, 0, 0, 0, 0, 0]),
            code([0x95, 0, 0, 0, 0, 0, 0, 0]),
        ],
        callback: None,
    };
    assert_eq!(stack_accesses(&function).len(), 1);
}
