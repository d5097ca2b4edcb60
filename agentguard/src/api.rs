//! The local API: HTTP/1.1 and JSON over a Unix socket. Here: its address, and its parts. Who may
//! ask what is decided in `server`.

pub mod client;
pub mod server;
pub mod types;

/// Where the daemon listens unless its configuration says otherwise.
pub const SOCKET: &str = "/run/agentguard/agentguard.sock";

/// Where the daemon that listens at `socket` tells agents about themselves: beside it.
pub fn own_socket(socket: &std::path::Path) -> std::path::PathBuf {
    socket.with_file_name("agent.sock")
}
