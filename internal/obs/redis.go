package obs

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// redisGauges are fields of INFO that redis_exporter shows as they are, by the names that it gives them.
var redisGauges = map[string]string{
	"uptime_in_seconds": "uptime_in_seconds",
	"process_id":        "process_id",
	"hz":                "hz",
	"configured_hz":     "configured_hz",

	"connected_clients":               "connected_clients",
	"blocked_clients":                 "blocked_clients",
	"tracking_clients":                "tracking_clients",
	"client_recent_max_output_buffer": "client_recent_max_output_buffer_bytes",
	"client_recent_max_input_buffer":  "client_recent_max_input_buffer_bytes",

	"used_memory":               "memory_used_bytes",
	"used_memory_rss":           "memory_used_rss_bytes",
	"used_memory_peak":          "memory_used_peak_bytes",
	"used_memory_lua":           "memory_used_lua_bytes",
	"used_memory_overhead":      "memory_used_overhead_bytes",
	"used_memory_startup":       "memory_used_startup_bytes",
	"used_memory_dataset":       "memory_used_dataset_bytes",
	"used_memory_scripts":       "memory_used_scripts_bytes",
	"used_memory_scripts_eval":  "memory_used_scripts_eval_bytes",
	"used_memory_functions":     "memory_used_functions_bytes",
	"number_of_cached_scripts":  "number_of_cached_scripts",
	"number_of_functions":       "number_of_functions",
	"number_of_libraries":       "number_of_libraries",
	"maxmemory":                 "memory_max_bytes",
	"mem_fragmentation_ratio":   "mem_fragmentation_ratio",
	"mem_fragmentation_bytes":   "mem_fragmentation_bytes",
	"mem_clients_slaves":        "mem_clients_slaves",
	"mem_clients_normal":        "mem_clients_normal",
	"mem_not_counted_for_evict": "mem_not_counted_for_eviction_bytes",
	"lazyfree_pending_objects":  "lazyfree_pending_objects",
	"total_system_memory":       "total_system_memory_bytes",
	"active_defrag_running":     "active_defrag_running",
	"migrate_cached_sockets":    "migrate_cached_sockets_total",

	"loading":                      "loading_dump_file",
	"rdb_changes_since_last_save":  "rdb_changes_since_last_save",
	"rdb_bgsave_in_progress":       "rdb_bgsave_in_progress",
	"rdb_last_save_time":           "rdb_last_save_timestamp_seconds",
	"rdb_last_bgsave_status":       "rdb_last_bgsave_status",
	"rdb_last_bgsave_time_sec":     "rdb_last_bgsave_duration_sec",
	"rdb_current_bgsave_time_sec":  "rdb_current_bgsave_duration_sec",
	"aof_enabled":                  "aof_enabled",
	"aof_rewrite_in_progress":      "aof_rewrite_in_progress",
	"aof_rewrite_scheduled":        "aof_rewrite_scheduled",
	"aof_last_rewrite_time_sec":    "aof_last_rewrite_duration_sec",
	"aof_current_rewrite_time_sec": "aof_current_rewrite_duration_sec",
	"aof_current_size":             "aof_current_size_bytes",
	"aof_base_size":                "aof_base_size_bytes",
	"aof_pending_rewrite":          "aof_pending_rewrite",
	"aof_buffer_length":            "aof_buffer_length",
	"aof_pending_bio_fsync":        "aof_pending_bio_fsync",
	"aof_delayed_fsync":            "aof_delayed_fsync",
	"aof_last_bgrewrite_status":    "aof_last_bgrewrite_status",
	"aof_last_write_status":        "aof_last_write_status",

	"pubsub_channels":      "pubsub_channels",
	"pubsub_patterns":      "pubsub_patterns",
	"latest_fork_usec":     "latest_fork_usec",
	"active_defrag_hits":   "defrag_hits",
	"active_defrag_misses": "defrag_misses",

	"connected_slaves":               "connected_slaves",
	"repl_backlog_size":              "replication_backlog_bytes",
	"repl_backlog_active":            "repl_backlog_is_active",
	"repl_backlog_first_byte_offset": "repl_backlog_first_byte_offset",
	"repl_backlog_histlen":           "repl_backlog_history_bytes",
	"master_repl_offset":             "master_repl_offset",
	"second_repl_offset":             "second_repl_offset",
	"slave_expires_tracked_keys":     "slave_expires_tracked_keys",
	"slave_priority":                 "slave_priority",
	"sync_full":                      "replica_resyncs_full",
	"sync_partial_ok":                "replica_partial_resync_accepted",
	"sync_partial_err":               "replica_partial_resync_denied",

	"cluster_enabled": "cluster_enabled",
}

// redisCounters are the fields of INFO that only grow.
var redisCounters = map[string]string{
	"total_connections_received": "connections_received_total",
	"total_commands_processed":   "commands_processed_total",
	"rejected_connections":       "rejected_connections_total",
	"total_net_input_bytes":      "net_input_bytes_total",
	"total_net_output_bytes":     "net_output_bytes_total",
	"total_reads_processed":      "total_reads_processed",
	"total_writes_processed":     "total_writes_processed",
	"total_error_replies":        "total_error_replies",
	"unexpected_error_replies":   "unexpected_error_replies",
	"expired_keys":               "expired_keys_total",
	"evicted_keys":               "evicted_keys_total",
	"evicted_clients":            "evicted_clients_total",
	"keyspace_hits":              "keyspace_hits_total",
	"keyspace_misses":            "keyspace_misses_total",
	"acl_access_denied_auth":     "acl_access_denied_auth_total",
	"acl_access_denied_cmd":      "acl_access_denied_cmd_total",
	"acl_access_denied_key":      "acl_access_denied_key_total",
	"acl_access_denied_channel":  "acl_access_denied_channel_total",
	"used_cpu_sys":               "cpu_sys_seconds_total",
	"used_cpu_user":              "cpu_user_seconds_total",
}

// redisInfo are the fields of INFO that redis_instance_info has as labels.
var redisInfo = []string{
	"role", "redis_version", "redis_build_id", "redis_mode", "os", "maxmemory_policy", "tcp_port", "run_id", "process_id", "master_replid",
}

// Redis sends what redis_exporter would say of a server whose INFO ALL is info, under its names.
func Redis(metrics chan<- prometheus.Metric, info string) {
	r := redisMetrics{metrics: metrics, fields: make(map[string]string), calls: make(map[string]commandCalls), errors: make(map[string]float64)}
	section := ""
	for line := range strings.Lines(info) {
		line = strings.TrimSpace(line)
		if title, found := strings.CutPrefix(line, "# "); found {
			section = title
			continue
		}
		if field, value, found := strings.Cut(line, ":"); found {
			r.field(section, field, value)
		}
	}
	for code, count := range r.errors {
		r.send(Counter, "errors_total", count, "err", code)
	}
	r.send(Gauge, "up", 1)
	r.identity()
}

type redisMetrics struct {
	metrics chan<- prometheus.Metric
	fields  map[string]string // of INFO, by name
	calls   map[string]commandCalls
	errors  map[string]float64 // by code
}

// commandCalls is what Commandstats says of a command and its percentiles need.
type commandCalls struct {
	number uint64
	micros float64
}

// send sends one metric with pairs of label name and value.
func (r *redisMetrics) send(kind Kind, name string, value float64, labels ...string) {
	var names, values []string
	for pair := range slices.Chunk(labels, 2) {
		names, values = append(names, pair[0]), append(values, pair[1])
	}
	NewFamily(kind, "redis_"+name, "As redis_exporter has it.", nil, names...).Send(r.metrics, value, values...)
}

func (r *redisMetrics) field(section, field, value string) {
	r.fields[field] = value
	switch section {
	case "Commandstats":
		r.command(strings.TrimPrefix(field, "cmdstat_"), pairs(value))
	case "Errorstats":
		if count, ok := number(pairs(value)["count"]); ok {
			r.errors[strings.ToValidUTF8(strings.TrimPrefix(field, "errorstat_"), "?")] += count
		}
	case "Latencystats":
		r.percentiles(strings.TrimPrefix(field, "latency_percentiles_usec_"), pairs(value))
	case "Keyspace":
		r.database(field, pairs(value))
	case "Replication":
		r.replication(field, value)
	}
	if name, known := redisGauges[field]; known {
		if v, ok := number(value); ok {
			r.send(Gauge, name, v)
		}
	}
	if name, known := redisCounters[field]; known {
		if v, ok := number(value); ok {
			r.send(Counter, name, v)
		}
	}
}

func (r *redisMetrics) command(command string, of map[string]string) {
	for _, m := range []struct {
		field, name string
		parts       float64 // of the value in the metric's unit
	}{
		{"calls", "commands_total", 1}, {"usec", "commands_duration_seconds_total", 1e6},
		{"rejected_calls", "commands_rejected_calls_total", 1}, {"failed_calls", "commands_failed_calls_total", 1},
	} {
		if v, ok := number(of[m.field]); ok {
			r.send(Counter, m.name, v/m.parts, "cmd", command)
		}
	}
	calls, _ := number(of["calls"])
	micros, _ := number(of["usec"])
	r.calls[command] = commandCalls{uint64(calls), micros}
}

// percentiles come behind Commandstats in INFO.
func (r *redisMetrics) percentiles(command string, of map[string]string) {
	quantiles := make(map[float64]float64)
	for field, value := range of {
		p, first := number(strings.TrimPrefix(field, "p"))
		v, second := number(value)
		if first && second {
			quantiles[p] = v
		}
	}
	total, known := r.calls[command]
	if !known || len(quantiles) == 0 {
		return
	}
	desc := prometheus.NewDesc("redis_latency_percentiles_usec", "As redis_exporter has it.", []string{"cmd"}, nil)
	r.metrics <- prometheus.MustNewConstSummary(desc, total.number, total.micros, quantiles, command)
}

func (r *redisMetrics) database(database string, of map[string]string) {
	for _, m := range []struct {
		field, name string
		parts       float64
	}{{"keys", "db_keys", 1}, {"expires", "db_keys_expiring", 1}, {"avg_ttl", "db_avg_ttl_seconds", 1e3}} {
		if v, ok := number(of[m.field]); ok {
			r.send(Gauge, m.name, v/m.parts, "db", database)
		}
	}
}

func (r *redisMetrics) replication(field, value string) {
	master := []string{"master_host", r.fields["master_host"], "master_port", r.fields["master_port"]}
	switch field {
	case "master_link_status":
		r.send(Gauge, "master_link_up", Fact(value == "up"), master...)
		return
	case "master_last_io_seconds_ago", "master_sync_in_progress", "slave_repl_offset":
		if v, ok := number(value); ok {
			r.send(Gauge, field, v, master...)
		}
		return
	}
	index, found := strings.CutPrefix(field, "slave")
	if _, err := strconv.Atoi(index); !found || err != nil {
		return
	}
	of := pairs(value)
	slave := []string{"slave_ip", of["ip"], "slave_port", of["port"], "slave_state", of["state"]}
	if v, ok := number(of["offset"]); ok {
		r.send(Gauge, "connected_slave_offset_bytes", v, slave...)
	}
	if v, ok := number(of["lag"]); ok {
		r.send(Gauge, "connected_slave_lag_seconds", v, slave...)
	}
}

// identity sends what is known of the whole server only when all fields were seen.
func (r *redisMetrics) identity() {
	var labels []string
	for _, field := range redisInfo {
		labels = append(labels, field, r.fields[field])
	}
	r.send(Gauge, "instance_info", 1, labels...)
	if r.fields["role"] == "slave" {
		r.send(Gauge, "slave_info", 1, "master_host", r.fields["master_host"], "master_port", r.fields["master_port"], "read_only", r.fields["slave_read_only"])
	}
	now, first := number(r.fields["server_time_usec"])
	up, second := number(r.fields["uptime_in_seconds"])
	if first && second {
		r.send(Gauge, "start_time_seconds", math.Floor(now/1e6)-up)
	}
}

// RedisSettings sends the settings and the slow log as redis_exporter names them, which reads them with commands of
// their own.
func RedisSettings(metrics chan<- prometheus.Metric, s RedisFacts) {
	r := redisMetrics{metrics: metrics}
	r.send(Gauge, "config_maxclients", float64(s.MaxClients))
	r.send(Gauge, "config_maxmemory", float64(s.MaxMemory))
	r.send(Gauge, "slowlog_length", float64(s.SlowLength))
	r.send(Gauge, "slowlog_last_id", float64(s.SlowLast))
	r.send(Gauge, "last_slow_execution_duration_seconds", s.SlowSeconds)
}

// RedisFacts are what INFO does not say.
type RedisFacts struct {
	MaxClients, MaxMemory int64
	SlowLength            int     // entries of the slow log
	SlowLast              int64   // id of the newest one
	SlowSeconds           float64 // its duration
}

// pairs reads "a=1,b=2".
func pairs(text string) map[string]string {
	of := make(map[string]string)
	for part := range strings.SplitSeq(text, ",") {
		if name, value, found := strings.Cut(part, "="); found {
			of[name] = value
		}
	}
	return of
}

// number reads a value of INFO; "ok" is 1 and "err" is 0.
func number(text string) (float64, bool) {
	switch text {
	case "ok":
		return 1, true
	case "err", "fail":
		return 0, true
	}
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil
}
