package kvnode

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lockstep/internal/acl"
	"lockstep/internal/kv"
	"lockstep/internal/level"
	"lockstep/smr"
)

// infoSection writes one section of INFO.
type infoSection struct {
	name  string // as in the heading
	write func(n *Node, w *infoWriter)
	// extra sections are shown by "all" and "everything", not by default.
	extra bool
}

// infoSections are in Redis' order; our own comes last.
var infoSections = []infoSection{
	{name: "Server", write: (*Node).infoServer},
	{name: "Clients", write: (*Node).infoClients},
	{name: "Memory", write: (*Node).infoMemory},
	{name: "Persistence", write: (*Node).infoPersistence},
	{name: "Stats", write: (*Node).infoStats},
	{name: "Replication", write: (*Node).infoReplication},
	{name: "CPU", write: (*Node).infoCPU},
	{name: "Modules", write: func(*Node, *infoWriter) {}},
	{name: "Commandstats", write: (*Node).infoCommandStats, extra: true},
	{name: "Errorstats", write: (*Node).infoErrorStats},
	{name: "Latencystats", write: (*Node).infoLatencyStats, extra: true},
	{name: "Cluster", write: func(_ *Node, w *infoWriter) { w.line("cluster_enabled", 0) }},
	{name: "Keyspace", write: (*Node).infoKeyspace},
	{name: "Smr", write: (*Node).infoSmr},
}

// infoWriter gathers lines. keyspace is taken once for all sections.
type infoWriter struct {
	b        strings.Builder
	keyspace kv.Stats
	scripts  kv.ScriptStats
	used     int64 // bytes of live objects

	maxMemory int64
	policy    string
}

func (w *infoWriter) line(name string, value any) { fmt.Fprintf(&w.b, "%s:%v\r\n", name, value) }

// infoCommand is INFO [section ...].
func infoCommand(c *conn, args [][]byte) {
	c.reply.Verbatim("txt", c.node.info(args[1:]))
}

func (n *Node) info(names [][]byte) string {
	wanted := make(map[string]bool)
	for _, name := range names {
		wanted[strings.ToLower(string(name))] = true
	}
	all := wanted["all"] || wanted["everything"]
	usual := len(names) == 0 || wanted["default"]
	w := &infoWriter{used: n.sampleMemory()}
	n.lock.RLock()
	w.keyspace, w.scripts = n.machine.Stats(), n.machine.Scripts()
	limit, _ := n.machine.Setting("maxmemory")
	w.maxMemory, _ = strconv.ParseInt(limit, 10, 64)
	w.policy, _ = n.machine.Setting("maxmemory-policy")
	n.lock.RUnlock()
	for _, s := range infoSections {
		if !all && !(usual && !s.extra) && !wanted[strings.ToLower(s.name)] {
			continue
		}
		if w.b.Len() > 0 {
			w.b.WriteString("\r\n")
		}
		w.b.WriteString("# " + s.name + "\r\n")
		s.write(n, w)
	}
	return w.b.String()
}

func (n *Node) infoServer(w *infoWriter) {
	up := int64(n.now() / time.Second)
	w.line("redis_version", redisVersion)
	w.line("server_name", serverName)
	w.line("lockstep_version", n.config.Version)
	w.line("redis_git_sha1", "00000000")
	w.line("redis_git_dirty", 0)
	w.line("redis_build_id", "0")
	w.line("redis_mode", "standalone")
	w.line("os", operatingSystem())
	w.line("arch_bits", strconv.IntSize)
	w.line("monotonic_clock", "POSIX clock_gettime")
	w.line("multiplexing_api", "go")
	w.line("atomicvar_api", "go")
	w.line("gcc_version", "0.0.0")
	w.line("go_version", runtime.Version())
	w.line("process_id", os.Getpid())
	w.line("process_supervised", "no")
	w.line("run_id", n.runID)
	port, bound := 0, ""
	if address := n.address.Load(); address != nil {
		port, bound = address.Port, address.IP.String()
	}
	w.line("tcp_port", port)
	w.line("server_time_usec", time.Now().UnixMicro())
	w.line("uptime_in_seconds", up)
	w.line("uptime_in_days", up/86400)
	w.line("hz", 10)
	w.line("configured_hz", 10)
	w.line("lru_clock", time.Now().Unix()&(1<<24-1))
	executable, _ := os.Executable()
	w.line("executable", executable)
	w.line("config_file", "")
	w.line("io_threads_active", 0)
	if port > 0 {
		w.line("listener0", fmt.Sprintf("name=tcp,bind=%s,port=%d", bound, port))
	}
}

func (n *Node) infoClients(w *infoWriter) {
	var query, output int64
	clients := n.clients.list()
	for _, c := range clients {
		query = max(query, c.about.pending.Load())
		output = max(output, c.out.waiting.Load())
	}
	w.line("connected_clients", len(clients))
	w.line("cluster_connections", 0)
	w.line("maxclients", n.settings.maxClients.Load())
	w.line("client_recent_max_input_buffer", query)
	w.line("client_recent_max_output_buffer", output)
	w.line("blocked_clients", n.blocked.count()+int(n.shell.pauses.wait.Load()))
	w.line("tracking_clients", n.shell.tracker.active.Load())
	w.line("clients_in_timeout_table", 0)
	w.line("total_blocking_keys", w.keyspace.WaitedKeys)
	w.line("total_blocking_keys_on_nokey", w.keyspace.WaitedEvenGone)
}

func (n *Node) infoMemory(w *infoWriter) {
	rss, total := residentBytes(), systemBytes()
	dataset := min(w.keyspace.Memory, w.used)
	ratio := 0.0
	if w.used > 0 {
		ratio = float64(rss) / float64(w.used)
	}
	peak := n.stats.peakMemory.Load()
	bytes := func(name string, value int64) {
		w.line(name, value)
		w.line(name+"_human", human(value))
	}
	bytes("used_memory", w.used)
	bytes("used_memory_rss", rss)
	bytes("used_memory_peak", peak)
	w.line("used_memory_peak_perc", percent(w.used, peak))
	w.line("used_memory_overhead", w.used-dataset)
	w.line("used_memory_startup", 0)
	w.line("used_memory_dataset", dataset)
	w.line("used_memory_dataset_perc", percent(dataset, w.used))
	bytes("total_system_memory", total)
	bytes("used_memory_lua", w.scripts.Memory)
	bytes("used_memory_vm_total", 0)
	w.line("used_memory_vm_eval", 0)
	w.line("used_memory_vm_functions", 0)
	w.line("used_memory_scripts_eval", w.scripts.EvalMemory)
	w.line("used_memory_functions", w.scripts.Memory-w.scripts.EvalMemory)
	bytes("used_memory_scripts", w.scripts.Memory)
	w.line("number_of_cached_scripts", w.scripts.Scripts)
	w.line("number_of_functions", w.scripts.Functions)
	w.line("number_of_libraries", w.scripts.Libraries)
	bytes("maxmemory", w.maxMemory)
	w.line("maxmemory_policy", w.policy)
	heap := heapOf()
	w.line("allocator_allocated", heap.allocated)
	w.line("allocator_active", heap.active)
	w.line("allocator_resident", heap.resident)
	w.line("allocator_frag_ratio", fmt.Sprintf("%.2f", over(heap.active, heap.allocated)))
	w.line("allocator_frag_bytes", heap.active-heap.allocated)
	w.line("allocator_rss_ratio", fmt.Sprintf("%.2f", over(heap.resident, heap.active)))
	w.line("allocator_rss_bytes", heap.resident-heap.active)
	w.line("rss_overhead_ratio", fmt.Sprintf("%.2f", over(rss, heap.resident)))
	w.line("rss_overhead_bytes", rss-heap.resident)
	n.infoTier(w)
	w.line("mem_fragmentation_ratio", fmt.Sprintf("%.2f", ratio))
	w.line("mem_fragmentation_bytes", rss-w.used)
	w.line("mem_not_counted_for_evict", 0)
	w.line("mem_total_replication_buffers", 0)
	w.line("mem_replication_backlog", 0)
	w.line("mem_clients_slaves", 0)
	w.line("mem_clients_normal", n.clientBytes())
	w.line("mem_cluster_links", 0)
	w.line("mem_aof_buffer", 0)
	w.line("mem_allocator", "go")
	w.line("active_defrag_running", 0)
	w.line("lazyfree_pending_objects", 0)
	w.line("lazyfreed_objects", 0)
}

// clientBytes returns what the buffers of all connections take.
func (n *Node) clientBytes() int64 {
	var sum int64
	for _, c := range n.clients.list() {
		sum += c.memory()
	}
	return sum
}

// infoPersistence maps the fields that alerts read to the log, which is this node's append-only file.
func (n *Node) infoPersistence(w *infoWriter) {
	status := n.log.Status()
	loading := 0
	if n.catchingUp(status) && !n.hasImage() { // else it serves an older state
		loading = 1
	}
	w.line("loading", loading)
	w.line("async_loading", 0)
	for _, name := range []string{"current_cow_peak", "current_cow_size", "current_cow_size_age"} { // there is no fork
		w.line(name, 0)
	}
	w.line("current_fork_perc", "0.00")
	w.line("current_save_keys_processed", 0)
	w.line("current_save_keys_total", 0)
	n.infoImages(w)
	w.line("rdb_last_cow_size", 0)
	w.line("aof_enabled", 1)
	w.line("aof_rewrite_in_progress", 0)
	w.line("aof_rewrite_scheduled", 0)
	w.line("aof_last_rewrite_time_sec", -1)
	w.line("aof_current_rewrite_time_sec", -1)
	w.line("aof_last_bgrewrite_status", "ok")
	w.line("aof_rewrites", 0)
	w.line("aof_rewrites_consecutive_failures", 0)
	w.line("aof_last_write_status", "ok")
	w.line("aof_last_cow_size", 0)
	w.line("module_fork_in_progress", 0)
	w.line("module_fork_last_cow_size", 0)
	w.line("aof_current_size", uint64(status.Safe-min(status.Start, status.Safe)))
	w.line("aof_base_size", 0)
	w.line("aof_pending_rewrite", 0)
	w.line("aof_buffer_length", 0)
	w.line("aof_pending_bio_fsync", 0)
	w.line("aof_delayed_fsync", 0)
}

func (n *Node) infoStats(w *infoWriter) {
	s := &n.stats
	w.line("total_connections_received", s.connections.Load())
	w.line("total_commands_processed", s.commands.Load())
	w.line("instantaneous_ops_per_sec", s.opsPerSec.Load())
	w.line("total_net_input_bytes", s.netInput.Load())
	w.line("total_net_output_bytes", s.netOutput.Load())
	w.line("instantaneous_input_kbps", fmt.Sprintf("%.2f", float64(s.inPerSec.Load())/1024))
	w.line("instantaneous_output_kbps", fmt.Sprintf("%.2f", float64(s.outPerSec.Load())/1024))
	w.line("total_net_repl_input_bytes", 0)
	w.line("total_net_repl_output_bytes", 0)
	w.line("instantaneous_input_repl_kbps", "0.00")
	w.line("instantaneous_output_repl_kbps", "0.00")
	w.line("rejected_connections", s.rejected.Load())
	w.line("sync_full", 0)
	w.line("sync_partial_ok", 0)
	w.line("sync_partial_err", 0)
	w.line("expired_keys", w.keyspace.Expired-s.expiredBefore.Load())
	w.line("expired_stale_perc", "0.00")
	w.line("expired_time_cap_reached_count", 0)
	w.line("expire_cycle_cpu_milliseconds", 0)
	w.line("evicted_keys", w.keyspace.Evicted)
	w.line("evicted_clients", s.evictedClients.Load())
	w.line("total_eviction_exceeded_time", 0)
	w.line("current_eviction_exceeded_time", 0)
	w.line("keyspace_hits", s.hits.Load())
	w.line("keyspace_misses", s.misses.Load())
	w.line("pubsub_channels", n.shell.pubsub.size(toChannels))
	w.line("pubsub_patterns", n.shell.pubsub.size(toPatterns))
	w.line("pubsubshard_channels", n.shell.pubsub.size(toShards))
	w.line("latest_fork_usec", 0)
	w.line("total_forks", 0)
	w.line("migrate_cached_sockets", 0)
	w.line("slave_expires_tracked_keys", 0)
	w.line("active_defrag_hits", 0)
	w.line("active_defrag_misses", 0)
	w.line("active_defrag_key_hits", 0)
	w.line("active_defrag_key_misses", 0)
	w.line("total_active_defrag_time", 0)
	w.line("current_active_defrag_time", 0)
	keys, items, prefixes := n.shell.tracker.totals()
	w.line("tracking_total_keys", keys)
	w.line("tracking_total_items", items)
	w.line("tracking_total_prefixes", prefixes)
	w.line("unexpected_error_replies", 0)
	w.line("total_error_replies", s.errors.Load())
	w.line("dump_payload_sanitizations", 0)
	w.line("client_query_buffer_limit_disconnections", 0)
	w.line("client_output_buffer_limit_disconnections", s.slowReaders.Load())
	w.line("reply_buffer_shrinks", 0)
	w.line("reply_buffer_expands", 0)
	d := &n.shell.denials
	d.mu.Lock()
	denied := d.total
	d.mu.Unlock()
	w.line("acl_access_denied_auth", denied[acl.DeniedAuth])
	w.line("acl_access_denied_cmd", denied[acl.DeniedCommand])
	w.line("acl_access_denied_key", denied[acl.DeniedKey])
	w.line("acl_access_denied_channel", denied[acl.DeniedChannel])
	w.line("io_threaded_reads_processed", 0)
	w.line("io_threaded_writes_processed", 0)
	w.line("total_reads_processed", s.reads.Load())
	w.line("total_writes_processed", s.batches.Load())
}

// infoReplication: every node takes writes, whatever its role. The history of a group never forks for what is
// committed, so that its replication id is its name for good.
func (n *Node) infoReplication(w *infoWriter) {
	status := n.log.Status()
	applied := uint64(n.Applied())
	if status.Role == smr.RoleMaster {
		w.line("role", "master")
		w.line("connected_slaves", n.slaves.Load())
		for i, other := range n.replicas() {
			w.line(fmt.Sprintf("slave%d", i), fmt.Sprintf("ip=%s,port=%d,state=online,offset=%d,lag=0", other.host, other.port, uint64(status.Commit)))
		}
	} else {
		address, port := n.masterAddress(status)
		w.line("role", "slave")
		w.line("master_host", address)
		w.line("master_port", port)
		up, silent := "up", int64(0)
		if status.Master == "" || status.Role == smr.RoleNone {
			up, silent = "down", int64((n.now()-time.Duration(n.changed.Load()))/time.Second)
		}
		w.line("master_link_status", up)
		w.line("master_last_io_seconds_ago", silent)
		syncing := 0
		if n.catchingUp(status) {
			syncing = 1
		}
		w.line("master_sync_in_progress", syncing)
		w.line("slave_read_repl_offset", uint64(status.Safe))
		w.line("slave_repl_offset", applied)
		w.line("slave_priority", 100)
		w.line("slave_read_only", 0)
		w.line("replica_announced", 1)
		w.line("connected_slaves", 0)
	}
	state := "no-failover"
	if n.shell.failover.Load() != nil {
		state = "failover-in-progress"
	}
	w.line("master_failover_state", state)
	w.line("master_replid", n.replicationID())
	w.line("master_replid2", strings.Repeat("0", 40))
	w.line("master_repl_offset", uint64(status.Commit))
	w.line("second_repl_offset", -1)
	w.line("repl_backlog_active", 1)
	w.line("repl_backlog_size", uint64(status.Safe-min(status.Start, status.Safe)))
	w.line("repl_backlog_first_byte_offset", uint64(status.Start))
	w.line("repl_backlog_histlen", uint64(status.Safe-min(status.Start, status.Safe)))
}

func (n *Node) infoCPU(w *infoWriter) {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return
	}
	seconds := func(t syscall.Timeval) string { return fmt.Sprintf("%d.%06d", t.Sec, t.Usec) }
	w.line("used_cpu_sys", seconds(usage.Stime))
	w.line("used_cpu_user", seconds(usage.Utime))
	w.line("used_cpu_sys_children", "0.000000")
	w.line("used_cpu_user_children", "0.000000")
	w.line("used_cpu_sys_main_thread", seconds(usage.Stime))
	w.line("used_cpu_user_main_thread", seconds(usage.Utime))
}

func (n *Node) infoCommandStats(w *infoWriter) {
	for _, c := range n.commands.all {
		if !c.stats.used() {
			continue
		}
		calls, micros := c.stats.calls.Load(), c.stats.nanos.Load()/1000
		each := 0.0
		if calls > 0 {
			each = float64(c.stats.nanos.Load()) / 1000 / float64(calls)
		}
		fmt.Fprintf(&w.b, "cmdstat_%s:calls=%d,usec=%d,usec_per_call=%.2f,rejected_calls=%d,failed_calls=%d\r\n",
			c.name, calls, micros, each, c.stats.rejected.Load(), c.stats.failed.Load())
	}
}

func (n *Node) infoErrorStats(w *infoWriter) {
	codes, counts := n.stats.errorCodes()
	for _, code := range codes {
		fmt.Fprintf(&w.b, "errorstat_%s:count=%d\r\n", code, counts[code])
	}
}

func (n *Node) infoLatencyStats(w *infoWriter) {
	percentiles := n.settings.percentiles.Load()
	if len(*percentiles) == 0 {
		return
	}
	for _, c := range n.commands.all {
		if !c.stats.timed() {
			continue
		}
		var fields []string
		for _, percentile := range *percentiles {
			fields = append(fields, fmt.Sprintf("p%s=%.3f", strconv.FormatFloat(percentile, 'g', -1, 64), c.stats.percentile(percentile/100)))
		}
		fmt.Fprintf(&w.b, "latency_percentiles_usec_%s:%s\r\n", c.name, strings.Join(fields, ","))
	}
}

func (n *Node) infoKeyspace(w *infoWriter) {
	for i, d := range w.keyspace.Databases {
		if d.Keys > 0 {
			fmt.Fprintf(&w.b, "db%d:keys=%d,expires=%d,avg_ttl=0\r\n", i, d.Keys, d.Expires)
		}
	}
}

// infoSmr is what Redis has no words for.
func (n *Node) infoSmr(w *infoWriter) {
	status := n.log.Status()
	w.line("smr_cluster", n.config.Cluster)
	w.line("smr_group", n.config.Group)
	w.line("smr_node", n.config.Node)
	w.line("smr_role", status.Role)
	w.line("smr_epoch", uint64(status.Epoch))
	w.line("smr_master", status.Master)
	w.line("smr_writable", oneIf(status.Writable))
	w.line("smr_start_lsn", uint64(status.Start))
	w.line("smr_commit_lsn", uint64(status.Commit))
	w.line("smr_safe_lsn", uint64(status.Safe))
	w.line("smr_applied_lsn", uint64(n.Applied()))
	w.line("smr_lag_bytes", uint64(status.Safe-min(n.Applied(), status.Safe)))
	w.line("smr_log_time_ms", w.keyspace.Now)
	w.line("smr_sessions", w.keyspace.Sessions)
	w.line("smr_feature_level", n.level.Level())
	w.line("smr_feature_level_highest", level.Highest())
}

func oneIf(truth bool) int {
	if truth {
		return 1
	}
	return 0
}

// sampleMemory returns the bytes of live objects and remembers the peak.
func (n *Node) sampleMemory() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	used := int64(0)
	if sample[0].Value.Kind() == metrics.KindUint64 {
		used = int64(min(sample[0].Value.Uint64(), math.MaxInt64))
	}
	for {
		peak := n.stats.peakMemory.Load()
		if used <= peak || n.stats.peakMemory.CompareAndSwap(peak, used) {
			return used
		}
	}
}

// heapUse is what the allocator tells: bytes of live objects, of the spans that hold them, and of what it has from the machine.
type heapUse struct{ allocated, active, resident int64 }

func heapOf() heapUse {
	names := []string{"/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes", "/memory/classes/heap/free:bytes",
		"/memory/classes/heap/stacks:bytes", "/memory/classes/metadata/other:bytes", "/memory/classes/other:bytes"}
	samples := make([]metrics.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	metrics.Read(samples)
	sum := make([]int64, len(names)+1)
	for i, sample := range samples {
		sum[i+1] = sum[i]
		if sample.Value.Kind() == metrics.KindUint64 {
			sum[i+1] += int64(min(sample.Value.Uint64(), math.MaxInt64/16))
		}
	}
	return heapUse{allocated: sum[1], active: sum[2], resident: sum[len(names)]}
}

// over returns the ratio of two numbers of bytes, 0 if there is none.
func over(a, b int64) float64 {
	if b <= 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// residentBytes returns the memory that the process takes from the machine, 0 if unknown.
func residentBytes() int64 { return residentBytesOf("self") }

// residentBytesOf is residentBytes of another process, by its id.
func residentBytesOf(process string) int64 {
	content, err := os.ReadFile("/proc/" + process + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(content))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// systemBytes returns the memory of the machine, 0 if unknown.
func systemBytes() int64 {
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// operatingSystem returns what uname says, as Redis shows it.
func operatingSystem() string {
	var name syscall.Utsname
	if syscall.Uname(&name) != nil {
		return runtime.GOOS
	}
	text := func(field [65]int8) string {
		var b []byte
		for _, c := range field {
			if c == 0 {
				break
			}
			b = append(b, byte(c))
		}
		return string(b)
	}
	return text(name.Sysname) + " " + text(name.Release) + " " + text(name.Machine)
}

func percent(part, whole int64) string {
	if whole <= 0 {
		return "0.00%"
	}
	return fmt.Sprintf("%.2f%%", 100*float64(part)/float64(whole))
}

// human prints bytes as Redis does.
func human(n int64) string {
	size := float64(n)
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%dB", n)
	case n < 1<<20:
		return fmt.Sprintf("%.2fK", size/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.2fM", size/(1<<20))
	case n < 1<<40:
		return fmt.Sprintf("%.2fG", size/(1<<30))
	}
	return fmt.Sprintf("%.2fT", size/(1<<40))
}
