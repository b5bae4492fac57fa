package obs

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// info collects what Redis makes of a text.
type info string

func (info) Describe(chan<- *prometheus.Desc) {}

func (i info) Collect(metrics chan<- prometheus.Metric) {
	Redis(metrics, string(i))
	RedisSettings(metrics, RedisFacts{MaxClients: 10, MaxMemory: 20, SlowLength: 3, SlowLast: 8, SlowSeconds: 0.5})
}

const someInfo = "# Server\r\nredis_version:7.2.4\r\nredis_mode:standalone\r\nos:Linux\r\ntcp_port:6379\r\nrun_id:abc\r\nprocess_id:5\r\n" +
	"redis_build_id:0\r\nserver_time_usec:2000000000\r\nuptime_in_seconds:500\r\n\r\n" +
	"# Clients\r\nconnected_clients:3\r\nblocked_clients:1\r\n# Memory\r\nused_memory:100\r\nused_memory_human:100B\r\nmaxmemory_policy:noeviction\r\n" +
	"# Persistence\r\nrdb_last_bgsave_status:ok\r\naof_last_write_status:err\r\n# Stats\r\nkeyspace_hits:4\r\nexpired_keys:2\r\n" +
	"# Replication\r\nrole:slave\r\nmaster_host:h1\r\nmaster_port:6380\r\nmaster_link_status:up\r\nslave_repl_offset:77\r\nslave_read_only:0\r\nslave_priority:100\r\n" +
	"slave0:ip=h2,port=1,state=online,offset=70,lag=2\r\nmaster_replid:ff\r\n" +
	"# Commandstats\r\ncmdstat_config|get:calls=2,usec=30,usec_per_call=15.00,rejected_calls=1,failed_calls=0\r\n" +
	"# Errorstats\r\nerrorstat_ERR:count=4\r\nerrorstat_\xff:count=1\r\nerrorstat_\xfe:count=2\r\n" +
	"# Latencystats\r\nlatency_percentiles_usec_config|get:p50=1.000,p99=2.000,p99.9=4.000\r\n" +
	"# Keyspace\r\ndb0:keys=9,expires=1,avg_ttl=1500\r\n"

// What could go wrong: a panel made for Redis stays empty because a name, a label or a unit differs. The expected lines
// are what redis_exporter says of the same INFO.
func TestRedisNames(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(info(someInfo))
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
	said := make(map[string][]string) // lines, by name
	for line := range strings.Lines(answer.Body.String()) {
		if fields := strings.Fields(line); fields[0] == "#" {
			said[fields[2]] = append(said[fields[2]], line)
		} else {
			name, _, _ := strings.Cut(fields[0], "{")
			name = strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count")
			said[name] = append(said[name], line)
		}
	}
	for name, want := range map[string]string{
		"redis_up":                                   "redis_up 1\n",
		"redis_connected_clients":                    "redis_connected_clients 3\n",
		"redis_blocked_clients":                      "redis_blocked_clients 1\n",
		"redis_memory_used_bytes":                    "redis_memory_used_bytes 100\n",
		"redis_rdb_last_bgsave_status":               "redis_rdb_last_bgsave_status 1\n",
		"redis_aof_last_write_status":                "redis_aof_last_write_status 0\n",
		"redis_keyspace_hits_total":                  "redis_keyspace_hits_total 4\n",
		"redis_expired_keys_total":                   "redis_expired_keys_total 2\n",
		"redis_master_link_up":                       `redis_master_link_up{master_host="h1",master_port="6380"} 1` + "\n",
		"redis_slave_repl_offset":                    `redis_slave_repl_offset{master_host="h1",master_port="6380"} 77` + "\n",
		"redis_slave_priority":                       "redis_slave_priority 100\n",
		"redis_slave_info":                           `redis_slave_info{master_host="h1",master_port="6380",read_only="0"} 1` + "\n",
		"redis_connected_slave_offset_bytes":         `redis_connected_slave_offset_bytes{slave_ip="h2",slave_port="1",slave_state="online"} 70` + "\n",
		"redis_connected_slave_lag_seconds":          `redis_connected_slave_lag_seconds{slave_ip="h2",slave_port="1",slave_state="online"} 2` + "\n",
		"redis_commands_total":                       `redis_commands_total{cmd="config|get"} 2` + "\n",
		"redis_commands_duration_seconds_total":      `redis_commands_duration_seconds_total{cmd="config|get"} 3e-05` + "\n",
		"redis_commands_rejected_calls_total":        `redis_commands_rejected_calls_total{cmd="config|get"} 1` + "\n",
		"redis_errors_total":                         "redis_errors_total{err=\"?\"} 3\nredis_errors_total{err=\"ERR\"} 4\n",
		"redis_db_keys":                              `redis_db_keys{db="db0"} 9` + "\n",
		"redis_db_keys_expiring":                     `redis_db_keys_expiring{db="db0"} 1` + "\n",
		"redis_db_avg_ttl_seconds":                   `redis_db_avg_ttl_seconds{db="db0"} 1.5` + "\n",
		"redis_start_time_seconds":                   "redis_start_time_seconds 1500\n",
		"redis_config_maxclients":                    "redis_config_maxclients 10\n",
		"redis_slowlog_length":                       "redis_slowlog_length 3\n",
		"redis_last_slow_execution_duration_seconds": "redis_last_slow_execution_duration_seconds 0.5\n",
		"redis_instance_info": `redis_instance_info{master_replid="ff",maxmemory_policy="noeviction",os="Linux",process_id="5",redis_build_id="0",` +
			`redis_mode="standalone",redis_version="7.2.4",role="slave",run_id="abc",tcp_port="6379"} 1` + "\n",
		"redis_latency_percentiles_usec": `redis_latency_percentiles_usec{cmd="config|get",quantile="50"} 1` + "\n" +
			`redis_latency_percentiles_usec{cmd="config|get",quantile="99"} 2` + "\n" +
			`redis_latency_percentiles_usec{cmd="config|get",quantile="99.9"} 4` + "\n" +
			`redis_latency_percentiles_usec_sum{cmd="config|get"} 30` + "\n" +
			`redis_latency_percentiles_usec_count{cmd="config|get"} 2` + "\n",
	} {
		kind := "gauge"
		switch {
		case strings.HasSuffix(name, "_total"):
			kind = "counter"
		case strings.HasSuffix(name, "usec"):
			kind = "summary"
		}
		text := "# HELP " + name + " As redis_exporter has it.\n# TYPE " + name + " " + kind + "\n" + want
		if got := strings.Join(said[name], ""); got != text {
			t.Errorf("%s: got\n%swant\n%s", name, got, text)
		}
	}
	if names := []string{"redis_used_memory_human", "redis_role"}; slices.ContainsFunc(names, func(name string) bool { return said[name] != nil }) {
		t.Error("what redis_exporter does not show is shown")
	}
}

// What could go wrong: an INFO that nobody thought of ends the process of whoever looks at it.
func FuzzRedis(f *testing.F) {
	f.Add(someInfo)
	f.Add("# Commandstats\ncmdstat_:calls=x\n# Latencystats\nlatency_percentiles_usec_:p=1,pNaN=NaN\n")
	f.Add("# Replication\nslave1\nslave2:\nmaster_link_status:\n# Keyspace\ndb:keys\n:\n")
	f.Fuzz(func(t *testing.T, text string) {
		metrics := make(chan prometheus.Metric)
		done := make(chan int)
		go func() {
			n := 0
			for range metrics {
				n++
			}
			done <- n
		}()
		info(text).Collect(metrics)
		close(metrics)
		if <-done < 6 {
			t.Error("the least that is always said is missing")
		}
	})
}
