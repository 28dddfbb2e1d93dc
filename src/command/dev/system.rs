//! Starting, watching and stopping all of dev's children.

use std::env;
use std::time::Duration;

use anyhow::bail;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::config::redact_url;

use super::Interruption;
use super::child::Child;
use super::output::Printer;
use super::plan::{Plan, RolePlan, ServerPlan};
use super::probe;

/// How often the children are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How long a role that died stays away.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How often dev says what it is waiting for.
const WAITING_NOTICE_INTERVAL: Duration = Duration::from_secs(10);
/// How long roles may take to say goodbye to their clients.
const ROLES_STOP_SECONDS: u64 = 20;
const SERVERS_STOP_SECONDS: u64 = 5;

/// The children, in the order of the plan.
pub struct System<'a> {
    plan: &'a Plan,
    printer: Printer,
    servers: Vec<Child>,
    roles: Vec<Role<'a>>,
}

struct Role<'a> {
    plan: &'a RolePlan,
    state: State,
}

enum State {
    Running(Child),
    /// It died, and is to be started again then.
    Away(Instant),
}

impl<'a> System<'a> {
    pub fn new(plan: &'a Plan, printer: Printer) -> System<'a> {
        System {
            plan,
            printer,
            servers: Vec::new(),
            roles: Vec::new(),
        }
    }

    /// Starts everything, says how to use it, and watches it.
    ///
    /// # Errors
    ///
    /// Returns only where something could not be started, a server ended, or a role ended
    /// before the system was ready once.
    pub async fn run(&mut self) -> anyhow::Result<()> {
        for server in &self.plan.servers {
            self.start_server(server).await?;
        }
        for plan in &self.plan.roles {
            let state = State::Running(self.start_role(plan)?);
            self.roles.push(Role { plan, state });
        }
        self.until_ready().await?;
        self.say_how_to_use().await;
        loop {
            sleep(WATCH_INTERVAL).await;
            self.check_servers()?;
            self.restart_roles().await?;
        }
    }

    /// Ends the roles, then the servers; whatever does not end in time, or after a second
    /// interruption, is killed.
    pub async fn stop(mut self, interruption: &mut Interruption) {
        self.printer.say("Stopping.").await;
        let mut roles = Vec::new();
        for role in self.roles.drain(..) {
            if let State::Running(child) = role.state {
                roles.push(child);
            }
        }
        let mut servers: Vec<Child> = self.servers.drain(..).collect();
        let gracefully = async {
            end_all(&mut roles, ROLES_STOP_SECONDS).await;
            end_all(&mut servers, SERVERS_STOP_SECONDS).await;
        };
        tokio::select! {
            () = gracefully => {}
            () = interruption.next() => {}
        }
        for child in roles.iter_mut().chain(&mut servers) {
            if child.ended().is_none() {
                let line = format!("{} does not end: killed.", child.name());
                self.printer.say(&line).await;
                child.kill().await;
            }
        }
    }

    async fn start_server(&mut self, plan: &ServerPlan) -> anyhow::Result<()> {
        let mut command = Command::new(&plan.program);
        command.args(&plan.arguments);
        let child = Child::start(plan.name, command, &self.printer)?;
        self.servers.push(child);
        while !probe::accepts(plan.port).await {
            self.check_servers()?;
            sleep(WATCH_INTERVAL).await;
        }
        Ok(())
    }

    fn start_role(&self, plan: &RolePlan) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.plan.program);
        command.args(plan.arguments);
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("CATCHUP_") {
                command.env_remove(name);
            }
        }
        command.envs(plan.environment.iter().cloned());
        Child::start(&plan.name, command, &self.printer)
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let mut notice = Instant::now() + WAITING_NOTICE_INTERVAL;
        for index in 0..self.roles.len() {
            let plan = self.roles[index].plan;
            while let Err(reason) = probe::ready(plan.admin_port).await {
                self.check_servers()?;
                self.check_roles()?;
                if Instant::now() >= notice {
                    notice += WAITING_NOTICE_INTERVAL;
                    let line = format!("Waiting for {}: {reason}", plan.name);
                    self.printer.say(&line).await;
                }
                sleep(WATCH_INTERVAL).await;
            }
        }
        Ok(())
    }

    fn check_servers(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            if let Some(status) = server.ended() {
                bail!(
                    "{} ended with {status}: its last lines above say why",
                    server.name()
                );
            }
        }
        Ok(())
    }

    /// A role that ends before it was ready once would end again and again.
    fn check_roles(&mut self) -> anyhow::Result<()> {
        for role in &mut self.roles {
            if let State::Running(child) = &mut role.state
                && let Some(status) = child.ended()
            {
                bail!(
                    "{} ended with {status}: its last lines above say why",
                    child.name()
                );
            }
        }
        Ok(())
    }

    async fn restart_roles(&mut self) -> anyhow::Result<()> {
        for index in 0..self.roles.len() {
            let role = &mut self.roles[index];
            match &mut role.state {
                State::Running(child) => {
                    let Some(status) = child.ended() else {
                        continue;
                    };
                    let seconds = RESTART_DELAY.as_secs();
                    let name = child.name();
                    let line = format!("{name} ended with {status}; starts again in {seconds} s.");
                    self.printer.say(&line).await;
                    role.state = State::Away(Instant::now() + RESTART_DELAY);
                }
                State::Away(until) if Instant::now() >= *until => {
                    let plan = role.plan;
                    let child = self.start_role(plan)?;
                    self.roles[index].state = State::Running(child);
                }
                State::Away(_) => {}
            }
        }
        Ok(())
    }

    async fn say_how_to_use(&self) {
        let urls = |scheme: &str, path: &str| {
            let ports = self.plan.roles.iter().filter_map(|role| role.port);
            let urls: Vec<String> = ports
                .map(|port| format!("{scheme}://127.0.0.1:{port}{path}"))
                .collect();
            urls.join("  ")
        };
        let admins = self.plan.roles.iter();
        let admins: Vec<String> = admins
            .map(|role| format!("{} {}", role.name, role.admin_port))
            .collect();
        let nats_url = &self.plan.nats_url;
        let data = match self.plan.data_folder() {
            Some((folder, true)) => format!("{} (kept)", folder.display()),
            Some((folder, false)) => format!("{} (removed at the end)", folder.display()),
            None => "in the servers that were given".to_owned(),
        };
        let program = shell_name(&self.plan.program);
        let gateway = self
            .plan
            .roles
            .iter()
            .find_map(|role| role.port)
            .unwrap_or_default();
        for line in [
            String::new(),
            "Catchup is ready.".to_owned(),
            format!("  demo page   {}", urls("http", "/")),
            format!("  clients     {}", urls("ws", "/v1/ws")),
            format!("  publishers  {}", shown_urls(nats_url)),
            format!("  admin ports {} (/readyz, /metrics)", admins.join(", ")),
            format!("  data        {data}"),
            String::new(),
            "In another terminal, listen as ann:".to_owned(),
            format!("  {program} listen --url ws://127.0.0.1:{gateway} --user ann"),
            "and in a third, publish to her:".to_owned(),
            format!(
                "  {program} publish --nats-url {} --type new_comment --to ann --data '{{\"text\":\"hello\"}}'",
                shell_url(nats_url)
            ),
            String::new(),
            "Ctrl-C ends everything and leaves nothing.".to_owned(),
        ] {
            self.printer.say(&line).await;
        }
    }
}

/// SIGTERM to all, then waits for all.
async fn end_all(children: &mut [Child], seconds_max: u64) {
    let deadline = Instant::now() + Duration::from_secs(seconds_max);
    for child in children.iter_mut() {
        child.terminate();
    }
    for child in children {
        if !child.ends_before(deadline).await {
            return;
        }
    }
}

/// How this program is called from a shell in any folder.
fn shell_name(program: &std::path::Path) -> String {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut on_path = env::split_paths(&path).map(|folder| folder.join("catchup"));
    let first = on_path.find(|candidate| candidate.is_file());
    if first.and_then(|first| first.canonicalize().ok()).as_deref() == Some(program) {
        return "catchup".to_owned();
    }
    shell_word(&program.display().to_string())
}

fn shown_urls(urls: &str) -> String {
    let shown: Vec<String> = urls.split(',').map(redact_url).collect();
    shown.join(",")
}

/// A URL with a password stays where the user gave it.
fn shell_url(url: &str) -> String {
    match shown_urls(url) == url {
        true => shell_word(url),
        false => "\"$CATCHUP_NATS_URL\"".to_owned(),
    }
}

/// Quoted where the shell would read more than a word.
fn shell_word(text: &str) -> String {
    let is_plain = |next: char| next.is_alphanumeric() || "/._-:,@+".contains(next);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_needed() {
        assert_eq!(shell_word("target/debug/catchup"), "target/debug/catchup");
        assert_eq!(shell_word("/home/a b/it's"), r"'/home/a b/it'\''s'");
    }

    #[test]
    fn a_password_is_not_printed() {
        assert_eq!(shell_url("nats://127.0.0.1:8090"), "nats://127.0.0.1:8090");
        assert_eq!(shell_url("nats://u:secret@h:1"), "\"$CATCHUP_NATS_URL\"");
    }
}
