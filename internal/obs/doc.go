// Package obs shows what a process is doing: metrics in the format of Prometheus, and whether the process lives and is
// ready, over HTTP. A server (internal/kvnode, internal/replicator, internal/confmaster) hands its Subject to the
// Observer of its process and is asked when somebody looks; nothing is pushed, and nobody who looks takes part in a
// loop.
//
//	GET /metrics               everything below, and what the Go runtime and the system say of the process
//	GET /livez                 200, or 503 and why the process should be restarted
//	GET /readyz?role=R         200, or 503 and what is missing; R is master, slave or any (the default)
//	GET /version               program, version, Go
//	GET /debug/pprof/          only if it was asked for
//	/, /web/…                  the web page of a configuration master, if it mounts one
//
// Names of our own begin with lockstep_replica_, lockstep_kv_ or lockstep_confmaster_ and are in base units: seconds,
// bytes. LSNs are positions in bytes. A KV node says most things a second time under the names of redis_exporter
// (Redis), so that dashboards and alerts made for Redis work. docs/metrics.md lists all of it.
//
// It may not know: any server, any core.
package obs
