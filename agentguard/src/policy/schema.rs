//! The shape of a policy file as JSON Schema, for editors. What a file means, and much of what can be
//! wrong with it, a schema can't say; `check` does.

use schemars::{JsonSchema, Schema, schema_for};

use super::{
    model::{Access, Expect},
    profile::List,
};

/// The JSON Schema of a policy file.
pub fn schema() -> Schema {
    schema_for!(PolicyFile)
}

/// A policy file of AgentGuard: one profile.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
struct PolicyFile {
    /// Version of the policy language.
    #[schemars(range(min = 1, max = 1))]
    version: u32,
    /// Name of the profile; the file's name without `.toml` if it isn't written.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"))]
    name: Option<String>,
    /// One sentence about what the profile is for.
    description: Option<String>,
    /// Profiles in the same folder whose rules are added to these.
    include: Option<OneOrMore<String>>,
    /// enforce (the default), or audit: log what would have been done, and refuse only what no profile can allow.
    mode: Option<Mode>,
    /// What happens when no rule matches. What isn't written is "deny".
    default: Option<Default>,
    /// What is refused. Beats ask and allow.
    deny: Option<Vec<Rule>>,
    /// What a person decides. Beats allow.
    ask: Option<Vec<Rule>>,
    /// What may be done.
    allow: Option<Vec<Rule>>,
    /// What is logged.
    log: Option<Log>,
    /// Kernel surface that an agent rarely needs. What isn't written is "deny".
    system: Option<System>,
    /// How long asks wait, and how many of them.
    approvals: Option<Approvals>,
    /// How names are looked up.
    hosts: Option<Hosts>,
    /// Questions with the answers that this file must give (`agentguard policy test`).
    test: Option<Vec<Test>>,
}

/// One value or a list of them.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its shape is used")]
enum OneOrMore<T> {
    One(T),
    More(#[schemars(length(min = 1))] Vec<T>),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is used")]
enum Mode {
    Enforce,
    Audit,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
struct Default {
    /// One verdict, or one per access.
    file: Option<FileDefault>,
    exec: Option<List>,
    /// Internet addresses and Unix sockets.
    connect: Option<List>,
    listen: Option<List>,
}

#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its shape is used")]
enum FileDefault {
    One(List),
    PerAccess(FileDefaults),
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
struct FileDefaults {
    read: Option<List>,
    write: Option<List>,
    create: Option<List>,
    delete: Option<List>,
    metadata: Option<List>,
}

/// A rule is about exactly one of `file`, `exec`, `connect` and `listen`.
#[derive(JsonSchema)]
#[schemars(
    deny_unknown_fields,
    extend("oneOf" = [
        { "required": ["file"] },
        { "required": ["exec"] },
        { "required": ["map"] },
        { "required": ["connect"] },
        { "required": ["listen"] },
    ])
)]
#[expect(dead_code, reason = "only its shape is used")]
struct Rule {
    /// Path patterns: they begin with `/` or `**/`.
    file: Option<OneOrMore<String>>,
    /// Path patterns of programs.
    exec: Option<OneOrMore<String>>,
    /// Addresses: [tcp://|udp://|sctp://|icmp://]HOST[:PORT|:LOW-HIGH|:*], unix:/path, unix:@name. HOST is an address, a
    /// network, `*`, or a name with `*.` (one label) or `**.` (any number) in front.
    connect: Option<OneOrMore<String>>,
    /// Local addresses, written as for `connect`.
    listen: Option<OneOrMore<String>>,
    /// What the patterns match and the rule is not about.
    except: Option<OneOrMore<String>>,
    /// Accesses that a rule about files is about; all of them if not written.
    access: Option<OneOrMore<Access>>,
    /// Patterns of the program's arguments after argv[0], one per argument: `*` inside one argument, "**" for any
    /// number of arguments. With `exec` only.
    args: Option<OneOrMore<String>>,
    /// Appears in every event. Unique; <profile>/<list>/<n> if not written.
    id: Option<String>,
    /// Shown to whoever asks why.
    because: Option<String>,
    /// How long an ask waits; what [approvals] says if not written. In [[ask]] only.
    timeout: Option<String>,
    /// false: allowed actions are not logged. In [[allow]] only.
    log: Option<bool>,
    /// true: the process is killed. In [[deny]] only.
    kill: Option<bool>,
    /// true: hosts are opened at private, link-local and other special addresses as well. In [[allow]] and [[ask]],
    /// where `connect` names a host.
    private: Option<bool>,
    /// require: what is sent first must be a TLS ClientHello that names a host which rules open. In [[allow]] and [[ask]],
    /// where `connect` names hosts over tcp://.
    sni: Option<Sni>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is used")]
enum Sni {
    Require,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
struct Log {
    /// Which allowed actions are logged.
    allow: Option<LogAllow>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is used")]
enum LogAllow {
    All,
    /// Once per process and object.
    First,
    None,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
struct Approvals {
    /// How long an ask waits for an answer where its rule doesn't say; "60s" if not written.
    timeout: Option<String>,
    /// How long an action that was refused is refused without asking again; "30s" if not written.
    cooldown: Option<String>,
    /// How many questions of one agent may wait at once, 1 to 64; more are refused. 8 if not written.
    max_pending: Option<u32>,
}

#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
struct Hosts {
    /// Addresses of the resolvers that are asked instead of the host's, from the agent's network namespace.
    resolvers: Option<OneOrMore<String>>,
}

/// docs/system.md says what each word covers and what is lost by loosening it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its shape is used")]
struct System {
    /// Capabilities that a root agent keeps, such as "CAP_CHOWN".
    capabilities: Option<OneOrMore<String>>,
    io_uring: Option<List>,
    userfaultfd: Option<List>,
    user_namespaces: Option<List>,
    bpf: Option<Deny>,
    perf: Option<List>,
    keyrings: Option<List>,
    module_autoload: Option<List>,
    cgroups: Option<Deny>,
    kernel_files: Option<Deny>,
    block_devices: Option<List>,
    devices: Option<List>,
    other_processes: Option<Deny>,
    raw_sockets: Option<List>,
    packet_sockets: Option<List>,
    other_sockets: Option<List>,
    tun: Option<List>,
    terminal_input: Option<List>,
    process_list: Option<List>,
    ipc: Option<List>,
}

/// Can't be loosened.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is used")]
enum Deny {
    Deny,
}

/// A question and its answer.
#[derive(JsonSchema)]
#[schemars(
    deny_unknown_fields,
    extend("oneOf" = [
        { "required": ["open", "access"] },
        { "required": ["exec"] },
        { "required": ["connect"] },
        { "required": ["listen"] },
    ])
)]
#[expect(dead_code, reason = "only its shape is used")]
struct Test {
    /// Path of a file.
    open: Option<String>,
    /// Path of a program.
    exec: Option<String>,
    /// Path of a file that is to be mapped as code.
    map: Option<String>,
    /// Remote address.
    connect: Option<String>,
    /// Local address.
    listen: Option<String>,
    /// What `open` is for.
    access: Option<OneOrMore<Access>>,
    /// Arguments after argv[0] that the program of `exec` is run with; none if not written.
    args: Option<OneOrMore<String>>,
    /// The verdict that must come out.
    expect: Expect,
    /// Id of the rule that must decide, or "default".
    rule: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use agentguard_common::system::Operation;
    use serde_json::Value;

    use crate::policy::document;

    fn keys<'s>(schema: &'s Value, of: &str) -> BTreeSet<&'s str> {
        let properties = schema
            .pointer(&format!("{of}/properties"))
            .and_then(Value::as_object)
            .unwrap_or_else(|| panic!("{of} has no properties"));
        properties.keys().map(String::as_str).collect()
    }

    #[test]
    fn the_schema_has_the_keys_that_are_read() {
        let schema = super::schema();
        let schema = schema.as_value();
        assert_eq!(keys(schema, ""), BTreeSet::from(document::KEYS));
        assert_eq!(
            keys(schema, "/$defs/Default"),
            BTreeSet::from(document::DEFAULT_KEYS)
        );
        assert_eq!(
            keys(schema, "/$defs/Test"),
            BTreeSet::from(document::TEST_KEYS)
        );
        assert_eq!(
            keys(schema, "/$defs/System"),
            BTreeSet::from(Operation::ALL.map(Operation::name))
        );
        assert_eq!(
            keys(schema, "/$defs/Approvals"),
            BTreeSet::from(document::APPROVALS_KEYS)
        );
        assert_eq!(
            keys(schema, "/$defs/Hosts"),
            BTreeSet::from(document::HOSTS_KEYS)
        );
        assert_eq!(
            keys(schema, "/$defs/Rule"),
            BTreeSet::from(document::RULE_KEYS)
        );
    }
}
