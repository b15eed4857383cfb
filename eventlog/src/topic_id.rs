//! What a broker says of topics by DescribeTopics, ids included: the one call that rdkafka does not wrap, and the only unsafe code of the house.

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

/// How much longer to wait for the answer than the request may take.
const MARGIN: Duration = Duration::from_secs(2);

/// One topic as the broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    /// Its id, in Kafka's base64 form.
    pub id: String,
    pub partitions: i32,
    /// Replicas of the partition that has the fewest.
    pub replicas: i32,
}

/// Describes `names`, in their order. A topic's own error (unknown, not authorised) is its answer; the outer error is that of the request.
pub(crate) fn describe<C: ClientContext>(
    client: &Client<C>,
    names: &[String],
    timeout: Duration,
) -> Result<Vec<Result<Described, RDKafkaErrorCode>>, RDKafkaErrorCode> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<CString> =
        names.iter().map(|name| CString::new(name.as_str())).collect::<Result<_, _>>().map_err(|_| RDKafkaErrorCode::InvalidTopic)?;
    request(client, &names, timeout)
}

/// An object of librdkafka's that is freed when it goes out of scope.
struct Freed<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Drop for Freed<T> {
    #[allow(unsafe_code)] // librdkafka's objects are freed by hand
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the pointer came from the constructor that belongs to this destructor, is not null, and is freed only here.
            unsafe { (self.1)(self.0) }
        }
    }
}

#[allow(unsafe_code)] // DescribeTopics is not wrapped by rdkafka 0.39
fn request<C: ClientContext>(
    client: &Client<C>,
    names: &[CString],
    timeout: Duration,
) -> Result<Vec<Result<Described, RDKafkaErrorCode>>, RDKafkaErrorCode> {
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: `client` is borrowed for the whole function, so the native client outlives every object made here. `pointers` holds as many
    // valid C strings as is stated, and librdkafka copies them. Queue, collection and options are freed by their guards, also on a
    // time-out: the pending request holds its own reference of the queue.
    let event = unsafe {
        let queue = Freed(sys::rd_kafka_queue_new(client.native_ptr()), sys::rd_kafka_queue_destroy);
        let topics = Freed(
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            sys::rd_kafka_TopicCollection_destroy,
        );
        let options = Freed(
            sys::rd_kafka_AdminOptions_new(client.native_ptr(), sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS),
            sys::rd_kafka_AdminOptions_destroy,
        );
        // A time-out out of range is the only thing that is refused here; the default (60 s) then stands.
        let mut reason: [c_char; 256] = [0; 256];
        sys::rd_kafka_AdminOptions_set_request_timeout(options.0, millis(timeout), reason.as_mut_ptr(), reason.len());
        sys::rd_kafka_DescribeTopics(client.native_ptr(), topics.0, options.0, queue.0);
        Freed(sys::rd_kafka_queue_poll(queue.0, millis(timeout + MARGIN)), sys::rd_kafka_event_destroy)
    };
    if event.0.is_null() {
        return Err(RDKafkaErrorCode::OperationTimedOut);
    }
    // SAFETY: the event is not null and lives until the end of this function. The result and everything in it is owned by the event; only
    // copies leave this block. `rd_kafka_event_DescribeTopics_result` gives null for an event of another type, which is checked.
    unsafe {
        let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event.0));
        if code != RDKafkaErrorCode::NoError {
            return Err(code);
        }
        let result = sys::rd_kafka_event_DescribeTopics_result(event.0);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let mut described = vec![Err(RDKafkaErrorCode::UnknownTopicOrPartition); names.len()];
        for at in 0..count {
            let topic = *topics.add(at);
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic));
            // The order of the answer is not promised.
            if let Some(asked) = names.iter().position(|asked| asked.as_c_str() == name) {
                described[asked] = copy(topic);
            }
        }
        Ok(described)
    }
}

/// # Safety
/// `topic` is a description inside an event that is alive.
#[allow(unsafe_code)] // reads what DescribeTopics answered
unsafe fn copy(topic: *const sys::rd_kafka_TopicDescription_t) -> Result<Described, RDKafkaErrorCode> {
    // SAFETY: the caller promises a live description; all that is read here belongs to it. Arrays have as many elements as librdkafka says.
    unsafe {
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            let code = RDKafkaErrorCode::from(sys::rd_kafka_error_code(error));
            if code != RDKafkaErrorCode::NoError {
                return Err(code);
            }
        }
        let id =
            CStr::from_ptr(sys::rd_kafka_Uuid_base64str(sys::rd_kafka_TopicDescription_topic_id(topic))).to_string_lossy().into_owned();
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let mut fewest = i32::MAX;
        for at in 0..count {
            let mut replicas = 0;
            sys::rd_kafka_TopicPartitionInfo_replicas(*partitions.add(at), &mut replicas);
            fewest = fewest.min(replicas as i32);
        }
        Ok(Described { id, partitions: count as i32, replicas: fewest })
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
