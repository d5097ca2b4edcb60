//! Reads `[system]`; what its words mean is `policy::system`.

use agentguard_common::system::{Operation, System};
use toml::de::DeTable;

use super::{
    LISTS,
    reader::{Reader, Value, nearest},
};
use crate::policy::{
    diagnostic::excerpt,
    profile::List,
    system::{self, entry},
};

/// Reads `[system]`; what it doesn't say is denied.
pub(super) fn read(reader: &mut Reader, value: Option<&Value>) -> System {
    let mut system = System::default();
    if let Some(table) = value.and_then(|value| reader.table("system", value)) {
        read_table(reader, table, &mut system);
    }
    system
}

fn read_table(reader: &mut Reader, table: &DeTable, system: &mut System) {
    for (key, value) in table.iter() {
        let name: &str = key.get_ref();
        let Some(operation) = Operation::ALL
            .into_iter()
            .find(|operation| operation.name() == name)
        else {
            let known = Operation::ALL.map(Operation::name);
            reader.unknown_key(name, key.span(), "[system]", &known);
            continue;
        };
        if operation == Operation::Capabilities {
            system.capabilities = read_capabilities(reader, value);
            continue;
        }
        let Some(text) = reader.string(name, value) else {
            continue;
        };
        let Some(verdict) = reader.word(name, text, value.span(), &LISTS) else {
            continue;
        };
        let entry = entry(operation);
        if verdict != List::Deny && !entry.loosenable {
            reader.error(
                value.span(),
                "never-allowed",
                format!("`{name}` can't be loosened: {}", entry.lost),
                "leave it out; docs/system.md lists what can be",
            );
            continue;
        }
        let bit = 1 << operation as u8;
        match verdict {
            List::Allow => system.allow |= bit,
            List::Ask => system.ask |= bit,
            List::Deny => {}
        }
    }
}

/// A list of names; `"deny"` is the empty one.
fn read_capabilities(reader: &mut Reader, value: &Value) -> u64 {
    if value.get_ref().as_str() == Some(List::Deny.name()) {
        return 0;
    }
    let mut set = 0;
    for (name, span) in reader.strings("capabilities", value).unwrap_or_default() {
        let Some(capability) = system::capability(name) else {
            let names = system::capability_names();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let help = match nearest(&name.to_uppercase(), &names) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => {
                    "write a name such as \"CAP_CHOWN\"; docs/system.md has the list".to_owned()
                }
            };
            reader.error(
                span,
                "bad-value",
                format!("`{}` is no capability", excerpt(name)),
                help,
            );
            continue;
        };
        if let Some(why) = system::never(capability) {
            reader.error(
                span,
                "never-allowed",
                format!("`{name}` can't be given to an agent: {why}"),
                "leave it out; docs/system.md lists what can be named",
            );
            continue;
        }
        set |= 1 << capability.index();
    }
    set
}
