//! What librdkafka complains of, turned into errors that say what to do.

use crate::Error;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;
use std::sync::{Arc, Mutex};

/// The last complaint of any client of a log. An error code alone ("timed out") does not tell a person what is wrong; this does.
#[derive(Default)]
pub(super) struct Trouble {
    last: Mutex<Option<String>>,
}

/// Hears what one client reports.
pub(super) struct Context {
    trouble: Arc<Trouble>,
    /// The first record that could not be delivered: its topic and why.
    undelivered: Mutex<Option<(String, KafkaError)>>,
}

impl Context {
    pub(super) fn new(trouble: Arc<Trouble>) -> Context {
        Context { trouble, undelivered: Mutex::default() }
    }

    pub(super) fn undelivered(&self) -> Option<(String, KafkaError)> {
        self.undelivered.lock().expect("nothing that holds it can panic").take()
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, message);
        // CONFWARN tells which client a property is not for: expected, since one set of properties serves all of them.
        if level as i32 <= RDKafkaLogLevel::Warning as i32 && facility != "CONFWARN" {
            self.trouble.note(message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, reason);
        self.trouble.note(reason);
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, message)) = result else { return };
        let mut first = self.undelivered.lock().expect("nothing that holds it can panic");
        first.get_or_insert_with(|| (message.topic().to_string(), error.clone()));
    }
}

impl Trouble {
    fn note(&self, message: &str) {
        *self.last.lock().expect("nothing that holds it can panic") = Some(without_thread(message).to_string());
    }

    /// The error for what happened while `doing` something with `log`.
    pub(super) fn error(&self, doing: &str, log: &str, e: KafkaError) -> Error {
        let (doing, log) = (doing.to_string(), log.to_string());
        let last = self.last.lock().expect("nothing that holds it can panic").clone();
        if let KafkaError::ClientConfig(_, why, name, value) = &e {
            return Error::Failed {
                doing,
                why: format!("property {name} = {value}: {why}: correct it (librdkafka's CONFIGURATION.md lists all)"),
            };
        }
        match (kind(code(&e)), last) {
            (Kind::Silent, Some(last)) if speaks_of_rights(&last) => Error::Refused { doing, log, why: last },
            (Kind::Silent, last) => {
                let why = last.map_or_else(|| text(&e), |last| format!("{} ({last})", text(&e)));
                Error::Unreachable { doing, log, why: format!("{why}: check that the broker runs and that its address is right") }
            }
            (Kind::Refused, _) => Error::Refused { doing, log, why: text(&e) },
            (Kind::Other, _) => Error::Failed { doing: format!("{doing} ({log})"), why: text(&e) },
        }
    }
}

enum Kind {
    Silent,
    Refused,
    Other,
}

fn kind(code: Option<Code>) -> Kind {
    match code {
        Some(
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::TimedOutQueue
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::CoordinatorNotAvailable
            | Code::WaitingForCoordinator,
        ) => Kind::Silent,
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
            | Code::SSL
            | Code::SecurityDisabled,
        ) => Kind::Refused,
        _ => Kind::Other,
    }
}

/// The code, also where rdkafka does not give it.
pub(super) fn code(e: &KafkaError) -> Option<Code> {
    match e {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

fn text(e: &KafkaError) -> String {
    e.to_string()
}

/// A connection that is refused for its credentials only shows as one that never comes.
fn speaks_of_rights(message: &str) -> bool {
    ["SASL", "SSL", "authentication", "Authentication", "certificate"].iter().any(|word| message.contains(word))
}

/// librdkafka puts `[thrd:…]: ` before its messages.
fn without_thread(message: &str) -> &str {
    match message.strip_prefix("[thrd:") {
        Some(rest) => rest.split_once("]: ").map_or(message, |(_, message)| message),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_broker_is_told_from_one_that_refuses() {
        let trouble = Trouble::default();
        let timed_out = || KafkaError::Global(Code::OperationTimedOut);
        trouble.note("[thrd:x:1/bootstrap]: x:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused");
        let error = trouble.error("connecting", "Kafka at x:1", timed_out());
        assert!(matches!(&error, Error::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("Connection refused"), "{error}");
        trouble.note("x: SASL authentication error: Authentication failed");
        assert!(matches!(trouble.error("connecting", "Kafka at x:1", timed_out()), Error::Refused { .. }));
        let denied = KafkaError::Global(Code::TopicAuthorizationFailed);
        assert!(matches!(trouble.error("describing topics", "Kafka at x:1", denied), Error::Refused { .. }));
    }
}
