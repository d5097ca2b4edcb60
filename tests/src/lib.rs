//! Real-kernel tests of AgentGuard.

pub mod case;
