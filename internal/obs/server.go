package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// maxConnections bounds the connections that are open at once. Full: a further one is closed at once.
	maxConnections = 64
	// maxScrapes bounds the readers of /metrics that are served at once; others are told to come again (503).
	maxScrapes = 4
	// requestTime is how long a request may take to arrive, and its answer to leave.
	requestTime = 10 * time.Second
	// profileTime is the same for answers of pprof, which gathers for as long as it is told to.
	profileTime = 5 * time.Minute
	idleTime    = 2 * time.Minute
	maxHeader   = 16 << 10 // bytes
	stopGrace   = time.Second
)

// Serve answers on listener until ctx ends, which is no error, and closes it. profiles says whether /debug/pprof/ is
// there. All its goroutines have ended when it returns.
func (o *Observer) Serve(ctx context.Context, listener net.Listener, profiles bool) error {
	server := &http.Server{
		Handler: o.Handler(profiles), ReadHeaderTimeout: requestTime, ReadTimeout: requestTime, WriteTimeout: requestTime,
		IdleTimeout: idleTime, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	stopped := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(stopped)
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if server.Shutdown(patience) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(&bounded{Listener: listener, slots: make(chan struct{}, maxConnections)})
	if unhook() { // it ended by itself
		_ = server.Close()
		return fmt.Errorf("serve HTTP on %s: %w", listener.Addr(), err)
	}
	<-stopped
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve HTTP on %s: %w", listener.Addr(), err)
}

// Handler answers the paths that the package comment lists. profiles says whether /debug/pprof/ is among them.
func (o *Observer) Handler(profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes, EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError,
	}))
	for _, path := range []string{"/livez", "/healthz", "/health", "/-/healthy"} {
		mux.HandleFunc("GET "+path, o.answerLive)
	}
	for _, path := range []string{"/readyz", "/-/ready"} {
		mux.HandleFunc("GET "+path, o.answerReady)
	}
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusOK, fmt.Sprintf("%s %s %s", o.Program, o.Version, runtime.Version()))
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		plain(w, http.StatusOK, o.Program+": see /metrics /livez /readyz?role=master|slave|any /version")
	})
	if profiles {
		addProfiles(mux)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if web := o.mounted(); web != nil && (r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/web/")) {
			web.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func addProfiles(mux *http.ServeMux) {
	// Not cmdline: a password may stand there.
	for path, handle := range map[string]http.HandlerFunc{
		"": pprof.Index, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		mux.HandleFunc("GET /debug/pprof/"+path, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(profileTime)) // what fails here fails below
			handle(w, r)
		})
	}
}

func (o *Observer) answerLive(w http.ResponseWriter, _ *http.Request) {
	if err := o.Live(); err != nil {
		plain(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	plain(w, http.StatusOK, "ok")
}

func (o *Observer) answerReady(w http.ResponseWriter, r *http.Request) {
	role := Role(r.URL.Query().Get("role"))
	switch role {
	case "":
		role = AnyRole
	case AnyRole, Master, Slave:
	default:
		plain(w, http.StatusBadRequest, fmt.Sprintf("role %q: use master, slave or any", string(role)))
		return
	}
	if missing := o.Ready(role); len(missing) > 0 {
		plain(w, http.StatusServiceUnavailable, strings.Join(missing, "\n"))
		return
	}
	plain(w, http.StatusOK, "ok")
}

func plain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n") // who does not take the answer does not want it
}

// connKey is the key of the connection in a request's context.
type connKey struct{}

// ConnOf returns the connection that a request came by, as the listener accepted it; nil if it is not known.
func ConnOf(ctx context.Context) net.Conn {
	switch conn := ctx.Value(connKey{}).(type) {
	case *counted:
		return conn.Conn
	case net.Conn:
		return conn
	}
	return nil
}

// bounded bounds the connections of a listener that are open at once.
type bounded struct {
	net.Listener
	slots chan struct{}
}

// Accept returns the next connection for which there is room.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.slots <- struct{}{}:
			return &counted{Conn: conn, free: b.slots}, nil
		default:
			conn.Close()
		}
	}
}

// counted is a connection that makes room for another one when it is closed.
type counted struct {
	net.Conn
	once sync.Once
	free chan struct{}
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.once.Do(func() { <-c.free })
	return c.Conn.Close()
}
