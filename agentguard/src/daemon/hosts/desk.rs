//! What the resolver is told of each lookup: who asks, whether it may be forwarded; and what is written down of the answer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use agentguard_common::{
    Decision, Verdict,
    address::{V4, V6},
    event::{Process as Raw, Reason},
    name::{PRIVATE, QUESTION_NS, QuestionKey},
    profile::{LogAllow, Mode},
};
use tokio::net::TcpSocket;

use super::{Error, InForce, Inner, Shared, known::class_of, namespace::Namespace};
use crate::{
    daemon::events::Message,
    event::{Event, Object, Process, Processes, clock::boot_ns, net},
    policy::{CompiledProfile, HostName},
    resolver::{
        Answer, Desk, Failure, Judgement, Protocol, Question, ResponseCode, SocketMaker,
        Unreleased, Upstreams,
    },
    ring::record::verdict_name,
    tables::Shared as _,
};

/// A process of an agent that has asked something.
#[derive(Clone)]
pub struct Asker {
    agent: u64,
    /// The resolver that was asked.
    listener: u32,
    process: Raw,
}

/// What became of a lookup, for its event.
struct Told<'a> {
    decision: Decision,
    reason: Option<&'static str>,
    response: ResponseCode,
    addresses: &'a [IpAddr],
}

impl Desk for Shared {
    type Asker = Asker;

    fn asker(&self, number: u32, protocol: Protocol, source: SocketAddr) -> Option<Asker> {
        let key = QuestionKey {
            listener: number,
            port: source.port(),
            protocol: match protocol {
                Protocol::Udp => libc::IPPROTO_UDP as u8,
                Protocol::Tcp => libc::IPPROTO_TCP as u8,
            },
            family: if source.is_ipv4() { V4 } else { V6 },
        };
        let from = match self.inner().tables.question(key) {
            Ok(from) => from?,
            Err(error) => {
                tracing::error!("{error}");
                return None;
            }
        };
        if boot_ns().saturating_sub(from.boot_ns) > QUESTION_NS {
            // The port is another socket's by now.
            return None;
        }
        let mut bytes = vec![0; size_of::<Raw>()];
        for (to, word) in bytes.chunks_exact_mut(8).zip(from.asker) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        let mut process = Raw::read(&bytes)?;
        // They were not copied; `/proc` has them.
        process.exe_bytes = 0;
        process.args_bytes = 0;
        process.cut = 0;
        Some(Asker {
            agent: from.agent,
            listener: number,
            process,
        })
    }

    fn key(&self, asker: &Asker) -> u64 {
        asker.agent
    }

    fn judge(&self, asker: &Asker, question: &Question) -> Judgement {
        let Some(in_force) = self.inner().of_agent(asker.agent) else {
            return Judgement::Refuse;
        };
        let profile = &in_force.profile;
        let Some(name) = host(question) else {
            self.tell(
                asker,
                &in_force,
                Some(question),
                &Told::refused(
                    Decision::refuse(Reason::AddressUnreadable),
                    Some("no-host-name"),
                ),
            );
            return Judgement::Refuse;
        };
        let decision = profile.lookup(&name);
        let is_refused = !profile.names_hosts() || decision.outcome.rank() > Verdict::Ask as u32;
        if is_refused {
            let is_searched = is_searched(profile, &name);
            let told = Told {
                response: if is_searched {
                    ResponseCode::NXDomain
                } else {
                    ResponseCode::Refused
                },
                ..Told::refused(decision, None)
            };
            self.tell(asker, &in_force, Some(question), &told);
            if profile.mode == Mode::Enforce {
                return if is_searched {
                    Judgement::Hide
                } else {
                    Judgement::Refuse
                };
            }
        }
        if !profile.resolvers.is_empty() {
            // Where the agent would find them.
            let namespace = self.inner().namespace(asker.listener);
            return match namespace {
                Some(namespace) => Judgement::Forward(Upstreams {
                    servers: super::servers(&profile.resolvers),
                    sockets: Arc::new(namespace),
                }),
                // It has gone meanwhile, and whoever asked with it.
                None => Judgement::Refuse,
            };
        }
        match self.servers() {
            Ok(servers) => Judgement::Forward(Upstreams::here(servers)),
            Err(error) => {
                tracing::error!(
                    "{error}, nor does hosts.resolvers of the configuration; lookups fail"
                );
                // Nobody is asked, and the client is told that it failed.
                Judgement::Forward(Upstreams::here([]))
            }
        }
    }

    fn release(
        &self,
        asker: &Asker,
        question: &Question,
        answer: &Answer,
    ) -> Result<(), Unreleased> {
        let name = host(question).ok_or(Unreleased)?;
        let in_force = self.inner().of_agent(asker.agent).ok_or(Unreleased)?;
        let decision = in_force.profile.lookup(&name);
        let addresses: Vec<IpAddr> = answer
            .addresses
            .iter()
            .map(|(address, _)| *address)
            .collect();
        let written = self.write_down(asker.agent, &name, answer);
        let told = match &written {
            Ok(()) => Told {
                decision,
                reason: None,
                response: answer.response_code,
                addresses: &addresses,
            },
            Err(error) => {
                tracing::error!("cannot write down what {name} was answered: {error}");
                Told {
                    response: ResponseCode::ServFail,
                    ..Told::refused(Decision::refuse(Reason::NoRoom), Some("no-room"))
                }
            }
        };
        // What audit mode would have refused has been told.
        if decision.outcome.rank() <= Verdict::Ask as u32 || written.is_err() {
            self.tell(asker, &in_force, Some(question), &told);
        }
        written.map_err(|_| Unreleased)
    }

    fn failed(&self, asker: &Asker, question: Option<&Question>, why: Failure) {
        let Some(in_force) = self.inner().of_agent(asker.agent) else {
            return;
        };
        let (reason, response) = match why {
            Failure::Malformed => ("malformed-question", ResponseCode::FormErr),
            Failure::Unsupported => ("unsupported-question", ResponseCode::Refused),
            Failure::RateLimited => ("too-many-questions", ResponseCode::Refused),
            Failure::Overloaded => ("too-many-questions", ResponseCode::ServFail),
            Failure::NoAnswer | Failure::Upstream(_) => ("no-answer", ResponseCode::ServFail),
            Failure::Unusable(_) => ("unusable-answer", ResponseCode::ServFail),
        };
        let told = Told {
            response,
            ..Told::refused(Decision::refuse(Reason::AddressUnreadable), Some(reason))
        };
        self.tell(asker, &in_force, question, &told);
    }
}

impl Told<'_> {
    fn refused(decision: Decision, reason: Option<&'static str>) -> Self {
        Self {
            decision,
            reason,
            response: ResponseCode::Refused,
            addresses: &[],
        }
    }
}

impl Shared {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes down which addresses an agent knows by a name.
    fn write_down(&self, agent: u64, name: &HostName, answer: &Answer) -> Result<(), Error> {
        let now = boot_ns();
        let mut inner = self.inner();
        for (address, ttl) in &answer.addresses {
            let lifetime = std::time::Duration::from_secs(u64::from(*ttl))
                .clamp(self.config.min_lifetime, self.config.max_lifetime);
            inner
                .knowledge
                .learn(agent, *address, name, now + lifetime.as_nanos() as u64)?;
            // The policy may have been another when the question came.
            let Some(InForce { install, profile }) = inner.of_agent(agent) else {
                continue;
            };
            let of = (agent, super::address::long(*address));
            if let Some(grant) = inner.knowledge.grant(of, &profile, install)? {
                inner.tables.insert_grant(grant)?;
            }
            self.names.set_host(agent, *address, name.to_string());
        }
        Ok(())
    }

    /// Emits the event of a lookup.
    fn tell(&self, asker: &Asker, in_force: &InForce, question: Option<&Question>, told: &Told) {
        let profile = &in_force.profile;
        let is_allowed =
            told.reason.is_none() && told.decision.outcome.rank() <= Verdict::Ask as u32;
        let is_quiet = profile.log_allow == LogAllow::None || told.decision.outcome.is_quiet();
        if is_allowed && is_quiet {
            return;
        }
        let agent = self.names.agent(asker.agent);
        let is_audit = profile.mode == Mode::Audit && told.reason.is_none() && !is_allowed;
        // What is asked about is the connection; the lookup is free.
        let verdict = if is_allowed {
            "allow"
        } else {
            verdict_name(Verdict::Deny)
        };
        let rule = (told.reason.is_none()).then(|| rule(profile, told.decision));
        let (private, addresses): (Vec<IpAddr>, Vec<IpAddr>) = told
            .addresses
            .iter()
            .partition(|address| class_of(&super::address::long(**address)) == PRIVATE);
        let shown = |addresses: Vec<IpAddr>| addresses.iter().map(ToString::to_string).collect();
        let event = Event {
            time: self.clock.now(),
            session: agent.as_ref().map(|agent| agent.session.clone()),
            profile: agent.as_ref().map(|agent| agent.profile.clone()),
            agent: agent.map(|agent| agent.name),
            action: "net.resolve",
            verdict: Some(if is_audit { "audit" } else { verdict }),
            would: is_audit.then_some(verdict),
            errno: (!is_allowed && !is_audit).then_some("EPERM"),
            killed: false,
            rule,
            because: profile
                .rule(told.decision.outcome)
                .filter(|_| told.reason.is_none())
                .and_then(|rule| rule.because.clone()),
            reason: told.reason,
            approval: None,
            object: Some(Object::Lookup(net::Lookup {
                name: question.map(shown_name),
                kind: question.map(|question| question.record_type.to_string()),
                response: Some(response_name(told.response)),
                addresses: shown(addresses),
                private: shown(private),
            })),
            process: Process::new(&asker.process, &mut Processes::default()),
        };
        // Only at the very end is nobody there to take it.
        let _ = self.messages.send(Message::Event(Box::new(event)));
    }
}

impl Inner {
    /// What is in force for an agent.
    fn of_agent(&self, agent: u64) -> Option<InForce> {
        self.profiles.get(self.agents.get(&agent)?).cloned()
    }

    /// Where the resolver with this number is.
    fn namespace(&self, number: u32) -> Option<Namespace> {
        self.resolvers
            .values()
            .find(|listening| listening.number == number)
            .map(|listening| listening.namespace.clone())
    }
}

fn shown_name(question: &Question) -> String {
    let labels: Vec<&[u8]> = question.labels().collect();
    crate::event::text::decode(&labels.join(&b'.')).0
}

/// Whether a name was made of one that may be looked up, and a domain to search. In a container that list is its own, so
/// that it isn't known here.
fn is_searched(profile: &CompiledProfile, name: &HostName) -> bool {
    name.beginnings().any(|beginning| {
        let decision = profile.lookup(&beginning);
        decision.reason == Reason::Rule && decision.outcome.rank() <= Verdict::Ask as u32
    })
}

fn host(question: &Question) -> Option<HostName> {
    HostName::from_labels(question.labels())
}

fn rule(profile: &CompiledProfile, decision: Decision) -> String {
    match profile.rule(decision.outcome) {
        Some(rule) => rule.id.clone(),
        None => format!("{}/default", profile.name),
    }
}

/// As the registry has it (RFC 6895 section 2.3).
fn response_name(response: ResponseCode) -> String {
    match response {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("{}", u16::from(other)),
    }
}

/// Sockets to other resolvers, from where the agent is.
impl SocketMaker for Namespace {
    fn udp(&self, local: SocketAddr, _server: SocketAddr) -> io::Result<std::net::UdpSocket> {
        self.run(|| std::net::UdpSocket::bind(local))
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<TcpSocket> {
        self.run(|| match server {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        })
    }
}

const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Arc<Shared>>();
};
