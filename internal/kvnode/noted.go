package kvnode

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"lockstep/internal/resp"
)

// notedSetting is a parameter of Redis that nothing here depends on.
type notedSetting struct {
	name, standard string
	// valid checks a value and returns it as CONFIG GET shows it; nil: Redis does not let it be changed at run time.
	valid func(value string) (canonical string, err error)
}

// Checks of noted settings, in the words of Redis.
var (
	anyText = func(value string) (string, error) { return value, nil }
	boolean = func(value string) (string, error) {
		if value = strings.ToLower(value); value != "yes" && value != "no" {
			return "", errors.New("argument must be 'yes' or 'no'")
		}
		return value, nil
	}
	integerIn = func(low, high int64) func(string) (string, error) {
		return func(value string) (string, error) {
			n, ok := resp.ParseInt([]byte(value))
			if !ok {
				return "", errors.New("argument couldn't be parsed into an integer")
			}
			if n < low || n > high {
				return "", fmt.Errorf("argument must be between %d and %d inclusive", low, high)
			}
			return value, nil
		}
	}
	memoryFrom = func(low int64) func(string) (string, error) {
		return func(value string) (string, error) {
			size, err := parseMemory(value)
			if errors.Is(err, errMemoryRange) || err == nil && size < low {
				err = fmt.Errorf("argument must be between %d and %d inclusive", low, math.MaxInt64)
			}
			return strconv.FormatInt(size, 10), err
		}
	}
	oneOf = func(words ...string) func(string) (string, error) {
		return func(value string) (string, error) {
			if value = strings.ToLower(value); !slices.Contains(words, value) {
				return "", errors.New("argument(s) must be one of the following: " + strings.Join(words, ", "))
			}
			return value, nil
		}
	}
)

// notedSettings have the defaults, limits and names of Redis; those that it does not let change at run time are refused.
var notedSettings = []notedSetting{
	{"cluster-announce-human-nodename", "", anyText}, {"close-on-oom", "no", boolean}, {"locale-collate", "", anyText},
	{"active-defrag-cycle-max", "25", integerIn(1, 99)}, {"active-defrag-cycle-min", "1", integerIn(1, 99)},
	{"active-defrag-ignore-bytes", "104857600", memoryFrom(1)}, {"active-defrag-max-scan-fields", "1000", integerIn(1, math.MaxInt64)},
	{"active-defrag-threshold-lower", "10", integerIn(0, 1000)}, {"active-defrag-threshold-upper", "100", integerIn(0, 1000)},
	{"active-expire-effort", "1", integerIn(1, 10)}, {"activedefrag", "no", boolean}, {"activerehashing", "yes", boolean},
	{"always-show-logo", "no", nil}, {"aof-disable-auto-gc", "no", boolean}, {"aof-load-truncated", "yes", boolean},
	{"aof-rewrite-incremental-fsync", "yes", boolean}, {"aof-timestamp-enabled", "no", boolean}, {"aof-use-rdb-preamble", "yes", boolean},
	{"aof_rewrite_cpulist", "", nil}, {"appenddirname", "appendonlydir", nil}, {"appendfilename", "appendonly.aof", nil},
	{"appendonly", "yes", boolean}, {"auto-aof-rewrite-min-size", "67108864", memoryFrom(0)},
	{"auto-aof-rewrite-percentage", "100", integerIn(0, math.MaxInt32)}, {"bgsave_cpulist", "", nil}, {"bind-source-addr", "", anyText},
	{"bio_cpulist", "", nil}, {"busy-reply-threshold", "5000", integerIn(0, math.MaxInt64)}, {"cluster-allow-pubsubshard-when-down", "yes", boolean},
	{"cluster-allow-reads-when-down", "no", boolean}, {"cluster-allow-replica-migration", "yes", boolean},
	{"cluster-announce-bus-port", "0", integerIn(0, 65535)}, {"cluster-announce-hostname", "", anyText}, {"cluster-announce-ip", "", anyText},
	{"cluster-announce-port", "0", integerIn(0, 65535)}, {"cluster-announce-tls-port", "0", integerIn(0, 65535)},
	{"cluster-config-file", "nodes.conf", nil}, {"cluster-link-sendbuf-limit", "0", memoryFrom(0)},
	{"cluster-migration-barrier", "1", integerIn(0, math.MaxInt32)}, {"cluster-node-timeout", "15000", integerIn(0, math.MaxInt64)},
	{"cluster-port", "0", nil}, {"cluster-preferred-endpoint-type", "ip", oneOf("ip", "hostname", "unknown-endpoint")},
	{"cluster-replica-no-failover", "no", boolean}, {"cluster-replica-validity-factor", "10", integerIn(0, math.MaxInt32)},
	{"cluster-require-full-coverage", "yes", boolean}, {"cluster-slave-no-failover", "no", boolean},
	{"cluster-slave-validity-factor", "10", integerIn(0, math.MaxInt32)}, {"crash-log-enabled", "yes", boolean},
	{"crash-memcheck-enabled", "yes", boolean}, {"dbfilename", "dump.rdb", nil}, {"disable-thp", "yes", nil}, {"dynamic-hz", "yes", boolean},
	{"hll-sparse-max-bytes", "3000", memoryFrom(0)}, {"hz", "10", integerIn(0, math.MaxInt32)}, {"ignore-warnings", "", anyText},
	{"io-threads-do-reads", "no", nil}, {"jemalloc-bg-thread", "yes", boolean}, {"lazyfree-lazy-eviction", "no", boolean},
	{"lazyfree-lazy-expire", "no", boolean}, {"lazyfree-lazy-server-del", "no", boolean}, {"lazyfree-lazy-user-del", "no", boolean},
	{"lazyfree-lazy-user-flush", "no", boolean}, {"list-compress-depth", "0", integerIn(0, math.MaxInt32)},
	{"loglevel", "notice", oneOf("debug", "verbose", "notice", "warning")}, {"lua-time-limit", "5000", integerIn(0, math.MaxInt64)},
	{"masterauth", "", anyText}, {"masteruser", "", anyText}, {"maxmemory-eviction-tenacity", "10", integerIn(0, 100)},
	{"min-replicas-max-lag", "10", integerIn(0, math.MaxInt32)}, {"min-replicas-to-write", "0", integerIn(0, math.MaxInt32)},
	{"min-slaves-max-lag", "10", integerIn(0, math.MaxInt32)}, {"min-slaves-to-write", "0", integerIn(0, math.MaxInt32)},
	{"no-appendfsync-on-rewrite", "no", boolean}, {"oom-score-adj", "no", oneOf("no", "yes", "relative", "absolute")},
	{"oom-score-adj-values", "0 200 800", checkScores}, {"proc-title-template", "{title} {listen-addr} {server-mode}", anyText},
	{"propagation-error-behavior", "ignore", oneOf("ignore", "panic", "panic-on-replicas")}, {"rdb-del-sync-files", "no", boolean},
	{"rdb-save-incremental-fsync", "yes", boolean}, {"rdbchecksum", "yes", nil}, {"rdbcompression", "yes", boolean},
	{"repl-backlog-size", "1048576", memoryFrom(1)}, {"repl-backlog-ttl", "3600", integerIn(0, math.MaxInt64)},
	{"repl-disable-tcp-nodelay", "no", boolean}, {"repl-diskless-load", "disabled", oneOf("disabled", "on-empty-db", "swapdb")},
	{"repl-diskless-sync", "yes", boolean}, {"repl-diskless-sync-delay", "5", integerIn(0, math.MaxInt32)},
	{"repl-diskless-sync-max-replicas", "0", integerIn(0, math.MaxInt32)}, {"repl-ping-replica-period", "10", integerIn(1, math.MaxInt32)},
	{"repl-ping-slave-period", "10", integerIn(1, math.MaxInt32)}, {"repl-timeout", "60", integerIn(1, math.MaxInt32)},
	{"replica-announce-ip", "", anyText}, {"replica-announce-port", "0", integerIn(0, 65535)}, {"replica-announced", "yes", boolean},
	{"replica-ignore-disk-write-errors", "no", boolean}, {"replica-ignore-maxmemory", "yes", boolean}, {"replica-lazy-flush", "no", boolean},
	{"replica-priority", "100", integerIn(0, math.MaxInt32)}, {"replicaof", "", nil}, {"sanitize-dump-payload", "no", oneOf("no", "yes", "clients")},
	{"save", "", checkSave}, {"server_cpulist", "", nil}, {"set-proc-title", "yes", nil},
	{"shutdown-on-sigint", "default", oneOf("default", "save", "nosave", "now", "force")},
	{"shutdown-on-sigterm", "default", oneOf("default", "save", "nosave", "now", "force")}, {"shutdown-timeout", "10", integerIn(0, math.MaxInt32)},
	{"slave-announce-ip", "", anyText}, {"slave-announce-port", "0", integerIn(0, 65535)}, {"slave-ignore-maxmemory", "yes", boolean},
	{"slave-lazy-flush", "no", boolean}, {"slave-priority", "100", integerIn(0, math.MaxInt32)}, {"slaveof", "", nil}, {"socket-mark-id", "0", nil},
	{"stop-writes-on-bgsave-error", "yes", boolean}, {"syslog-enabled", "no", nil}, {"syslog-facility", "local0", nil}, {"syslog-ident", "redis", nil},
	{"tcp-backlog", "511", nil}, {"tls-auth-clients", "yes", nil}, {"tls-ca-cert-dir", "", nil}, {"tls-ca-cert-file", "", nil},
	{"tls-cert-file", "", nil}, {"tls-ciphers", "", nil}, {"tls-ciphersuites", "", nil}, {"tls-client-cert-file", "", nil},
	{"tls-client-key-file", "", nil}, {"tls-client-key-file-pass", "", nil}, {"tls-cluster", "no", nil}, {"tls-dh-params-file", "", nil},
	{"tls-key-file", "", nil}, {"tls-key-file-pass", "", nil}, {"tls-prefer-server-ciphers", "no", nil}, {"tls-protocols", "", nil},
	{"tls-replication", "no", nil}, {"tls-session-cache-size", "20480", nil}, {"tls-session-cache-timeout", "300", nil},
	{"tls-session-caching", "yes", nil}, {"unixsocketperm", "0", nil},
}

// keptUnder returns the name under which the value of a noted setting is kept: some have two names.
func keptUnder(name string) string {
	if name == "lua-time-limit" {
		return "busy-reply-threshold"
	}
	return strings.ReplaceAll(name, "slave", "replica")
}

// checkScores checks oom-score-adj-values: three numbers that do not fall.
func checkScores(value string) (string, error) {
	words := strings.Fields(value)
	if len(words) != 3 {
		return "", errors.New("wrong number of arguments")
	}
	last := int64(-2000)
	for _, word := range words {
		n, ok := resp.ParseInt([]byte(word))
		if !ok || n < -2000 || n > 2000 {
			return "", errors.New("Invalid oom-score-adj-values, elements must be between -2000 and 2000.")
		}
		if n < last {
			return "", errors.New("The oom-score-adj-values component must be in increasing order.")
		}
		last = n
	}
	return strings.Join(words, " "), nil
}

func checkSave(value string) (string, error) {
	words := strings.Fields(value)
	if len(words)%2 != 0 {
		return "", errors.New("Invalid save parameters")
	}
	for _, word := range words {
		if n, ok := resp.ParseInt([]byte(word)); !ok || n < 0 {
			return "", errors.New("Invalid save parameters")
		}
	}
	return strings.Join(words, " "), nil
}

// note makes a setting of a parameter that is only remembered.
func (s *settings) note(entry notedSetting) setting {
	key := keptUnder(entry.name)
	made := setting{name: entry.name, noted: true, get: func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if value, found := s.noted[key]; found {
			return value
		}
		return entry.standard
	}}
	if entry.valid != nil {
		made.check = func(value string) (func(), error) {
			canonical, err := entry.valid(value)
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.noted[key] = canonical
			}, err
		}
	}
	return made
}
