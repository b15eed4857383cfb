#!/usr/bin/env bash
# One Apache Kafka broker (KRaft, from its Maven jars) on free loopback ports, for tests.
#
#   scripts/kafka.sh start DIR [PID]   downloads the jars once, formats DIR, starts the broker, prints BROKERS=127.0.0.1:PORT;
#                                      with PID, ends the broker and removes DIR when that process has ended
#   scripts/kafka.sh stop DIR          ends exactly that broker
#   scripts/kafka.sh again DIR         starts the broker of DIR, which has ended, with its data and on its port
#
# KAFKA_ADVERTISED=HOST:PORT is the address that clients are told to use: of a proxy before the broker. KAFKA_EXTRA: more of its settings.
# Jars are kept in ${TAPE_CACHE:-~/.cache/tokentape}/kafka-VERSION. The broker's log is DIR/broker.log, its process id DIR/pid.
set -euo pipefail

VERSION=4.1.1
SCALA=2.13
START_SECONDS=120
STOP_SECONDS=30
SELF=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/$(basename "${BASH_SOURCE[0]}")

say() { echo "kafka.sh: $*" >&2; }
die() { say "$*"; exit 3; }

need() {
  command -v java >/dev/null || die "java is missing: install a Java 17 runtime (Debian/Ubuntu: apt install default-jre-headless)"
  local major
  major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
  [ "${major:-0}" -ge 17 ] || die "java ${major:-of unknown version} is too old: Kafka $VERSION needs 17 or later"
}

# Puts the jars into $1, once; several callers may do it at a time, the first one to finish wins.
fetch() {
  local cache=$1 work
  [ -f "$cache/complete" ] && return
  command -v mvn >/dev/null || die "mvn is missing: it fetches Kafka's jars (Debian/Ubuntu: apt install maven)"
  mkdir -p "$(dirname "$cache")"
  work=$(mktemp -d "$cache.XXXXXX")
  cat >"$work/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tokentape</groupId>
  <artifactId>test-broker</artifactId>
  <version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_$SCALA</artifactId><version>$VERSION</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
  </dependencies>
</project>
POM
  say "fetching Kafka $VERSION from Maven Central into $cache"
  (cd "$work" && mvn -q -B dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=libs) >&2 ||
    die "mvn could not fetch Kafka $VERSION: check the network or the mirror in ~/.m2/settings.xml, then run this again"
  touch "$work/complete"
  # A cache that is there but not complete was left by an interrupted run.
  [ -e "$cache" ] && [ ! -f "$cache/complete" ] && mv "$cache" "$work.old" && rm -rf "$work.old"
  mv -T "$work" "$cache" 2>/dev/null || { [ -f "$cache/complete" ] && rm -rf "$work"; } || die "cannot move the jars to $cache"
}

# Three loopback addresses nobody listens on: asked of the kernel, all held open until the last one is known.
free_ports() {
  if command -v python3 >/dev/null; then
    python3 -c 'import socket
s=[socket.socket() for _ in range(2)]
for x in s: x.bind(("127.0.0.1",0))
print(*[x.getsockname()[1] for x in s])'
    return
  fi
  local port found=()
  while [ ${#found[@]} -lt 2 ]; do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || found+=("$port")
  done
  echo "${found[@]}"
}

configure() {
  local dir=$1 port=$2 controller=$3
  cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://${KAFKA_ADVERTISED:-127.0.0.1:$port}
controller.listener.names=CONTROLLER
log.dirs=$dir/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=16777216
${KAFKA_EXTRA:-}
PROPERTIES
  cat >"$dir/log4j2.properties" <<LOGGING
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c)%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
LOGGING
}

# A process that has ended but that nobody has asked about yet is not alive.
alive() { [ -n "${1:-}" ] && kill -0 "$1" 2>/dev/null && ! grep -qs '^State:[[:space:]]*Z' "/proc/$1/status"; }

start() {
  local dir=$1 watched=$2 cache port controller
  need
  cache=${TAPE_CACHE:-$HOME/.cache/tokentape}/kafka-$VERSION
  fetch "$cache"
  mkdir -p "$dir"
  dir=$(cd "$dir" && pwd)
  if [ -f "$dir/pid" ] && alive "$(cat "$dir/pid")"; then
    die "a broker already runs in $dir (process $(cat "$dir/pid")): scripts/kafka.sh stop $dir"
  fi
  read -r port controller <<<"$(free_ports)"
  rm -rf "$dir/data"
  configure "$dir" "$port" "$controller"
  local java=(java -cp "$cache/libs/*" "-Dlog4j2.configurationFile=$dir/log4j2.properties")
  "${java[@]}" -Xmx256m kafka.tools.StorageTool format -t "$("${java[@]}" -Xmx64m kafka.tools.StorageTool random-uuid)" \
    -c "$dir/server.properties" >"$dir/format.log" 2>&1 || die "formatting failed: $(tail -3 "$dir/format.log")"
  launch "$dir" "$cache" "$port"
  # Not "… || … &": that would keep the caller's pipe open in a subshell.
  if [ -n "$watched" ]; then
    setsid "$SELF" watch "$dir" "$watched" >/dev/null 2>&1 </dev/null &
  fi
  echo "BROKERS=127.0.0.1:$port"
}

again() {
  local dir cache=${TAPE_CACHE:-$HOME/.cache/tokentape}/kafka-$VERSION port
  dir=$(cd "$1" && pwd)
  alive "$(cat "$dir/pid" 2>/dev/null)" && die "the broker in $dir runs (process $(cat "$dir/pid"))"
  port=$(sed -n 's/^listeners=PLAINTEXT:\/\/127.0.0.1:\([0-9]*\),.*/\1/p' "$dir/server.properties")
  launch "$dir" "$cache" "$port"
  echo "BROKERS=127.0.0.1:$port"
}

# Starts the broker that is configured in $1, and waits until it answers.
launch() {
  local dir=$1 cache=$2 port=$3 pid deadline
  # Its own process group: Ctrl-C at a terminal ends the tests, and they end the broker.
  setsid java -cp "$cache/libs/*" "-Dlog4j2.configurationFile=$dir/log4j2.properties" -Xms256m -Xmx512m -XX:+UseSerialGC kafka.Kafka \
    "$dir/server.properties" >>"$dir/broker.log" 2>&1 </dev/null &
  pid=$!
  echo "$pid" >"$dir/pid"
  deadline=$((SECONDS + START_SECONDS))
  until answers "$port"; do
    alive "$pid" || { rm -f "$dir/pid"; die "the broker ended while starting: $(tail -5 "$dir/broker.log")"; }
    [ $SECONDS -lt $deadline ] || { stop "$dir"; die "the broker did not answer within $START_SECONDS s: see $dir/broker.log"; }
    sleep 0.2
  done
}

watch() {
  local dir=$1 watched=$2
  while alive "$watched" && [ -f "$dir/pid" ]; do sleep 0.5; done
  stop "$dir"
  rm -rf "$dir"
}

# True when the port answers an ApiVersions request: it is a Kafka broker, and it serves.
answers() {
  local port=$1 reply
  { exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
  # length 14, api 18, version 0, correlation 7, client id "tape"
  printf '\0\0\0\016\0\022\0\0\0\0\0\007\0\004tape' >&3
  reply=$(timeout 5 head -c 8 <&3 | od -An -tx1 | tr -d ' \n')
  exec 3>&- 3<&-
  [ "${reply:8:8}" = 00000007 ]
}

stop() {
  local dir=$1 pid deadline
  [ -f "$dir/pid" ] || { say "no broker was started in $dir"; return; }
  pid=$(cat "$dir/pid")
  # A process id may have been given to somebody else since: end it only when it is this broker.
  if alive "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$dir/server.properties"; then
    kill "$pid" 2>/dev/null || true
    deadline=$((SECONDS + STOP_SECONDS))
    while alive "$pid"; do
      [ $SECONDS -lt $deadline ] || { kill -9 "$pid" 2>/dev/null || true; break; }
      sleep 0.1
    done
  fi
  rm -f "$dir/pid"
}

case "${1:-}:${2:+dir}" in
  start:dir) start "$2" "${3:-}" ;;
  watch:dir) watch "$2" "$3" ;;
  again:dir) again "$2" ;;
  stop:dir) stop "$(cd "$2" 2>/dev/null && pwd || echo "$2")" ;;
  *) say "usage: scripts/kafka.sh start DIR [PID] | again DIR | stop DIR"; exit 2 ;;
esac
