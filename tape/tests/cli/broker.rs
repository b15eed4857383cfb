//! What an administrator does to a broker, in Kafka's own protocol: changes a topic's setting, forbids an operation.

use std::io::{Read, Write};
use std::net::TcpStream;

const INCREMENTAL_ALTER_CONFIGS: i16 = 44;
const CREATE_ACLS: i16 = 30;
/// Resource type, the same in both requests.
const TOPIC: i8 = 2;
/// Operations of ACLs.
pub const READ: i8 = 3;
pub const WRITE: i8 = 4;

/// Sets a topic's setting.
pub fn alter(broker: &str, topic: &str, name: &str, value: &str) {
    let mut body = Body::default();
    body.i32(1).i8(TOPIC).text(topic).i32(1).text(name).i8(0).text(value).i8(0);
    let answer = ask(broker, INCREMENTAL_ALTER_CONFIGS, 0, &body.0);
    // Throttle time, number of results, error of the first.
    assert_eq!(answer[8..10], [0, 0], "{topic}: {name} could not be set");
}

/// Forbids an operation on a topic to everybody.
pub fn forbid(broker: &str, topic: &str, operation: i8) {
    const LITERAL: i8 = 3;
    const DENY: i8 = 2;
    let mut body = Body::default();
    body.i32(1).i8(TOPIC).text(topic).i8(LITERAL).text("User:*").text("*").i8(operation).i8(DENY);
    let answer = ask(broker, CREATE_ACLS, 1, &body.0);
    assert_eq!(answer[8..10], [0, 0], "{topic} could not be forbidden: the broker needs an authorizer, as scripts/kafka.sh gives it");
}

/// The body of a request, piece by piece.
#[derive(Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn i8(&mut self, n: i8) -> &mut Body {
        self.0.extend(n.to_be_bytes());
        self
    }

    pub fn i16(&mut self, n: i16) -> &mut Body {
        self.0.extend(n.to_be_bytes());
        self
    }

    pub fn i32(&mut self, n: i32) -> &mut Body {
        self.0.extend(n.to_be_bytes());
        self
    }

    pub fn text(&mut self, text: &str) -> &mut Body {
        self.i16(text.len() as i16);
        self.0.extend(text.as_bytes());
        self
    }
}

/// One request; the answer without its length and correlation id.
pub fn ask(broker: &str, api: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut request = Body::default();
    request.i16(api).i16(version).i32(1).text("test").0.extend(body);
    let mut stream = TcpStream::connect(broker).expect("the broker answers");
    stream.write_all(&(request.0.len() as i32).to_be_bytes()).and_then(|()| stream.write_all(&request.0)).expect("sent");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("answered");
    let mut answer = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("answered");
    answer.split_off(4)
}
