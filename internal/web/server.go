package web

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/trust"
	"lockstep/proto"
)

const (
	// maxBody bounds what a browser sends, in bytes.
	maxBody = 64 << 10
	// maxStreams bounds the browsers that are sent the state every second. Full: one more asks again by itself.
	maxStreams = 16
	// maxLooks bounds the requests that ask nodes at once. Full: the browser is told to ask again.
	maxLooks = 4
	// lookPatience bounds one of them, changePatience a change.
	lookPatience   = 8 * time.Second
	changePatience = 45 * time.Second
	// policy lets a page use what comes from here and nothing else, and no script that was written into it.
	policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
		"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

// Config of a page.
type Config struct {
	Cluster string // id
	Self    uint64 // number of this configuration master
	// Masters is this configuration master, called as by gRPC, from any goroutine; contexts carry a trust.Caller.
	Masters proto.ConfmasterServer
	// Dial returns a connection to a process of the cluster, which stays its owner's.
	Dial func(addr string, who trust.Wanted) (*grpc.ClientConn, error)
	// Drills is the directory in which smrctl keeps the reports of drills; "" for none.
	Drills string
	// Keeper holds the certificate; nil: nobody can log in, because nobody can show who he is.
	Keeper *trust.Keeper
	// URL is where browsers find the page, Secure whether it has TLS: without, nobody can log in either.
	URL    string
	Secure bool
	// Hosts are the names by which browsers reach it without TLS, beside localhost and addresses.
	Hosts  []string
	Logger *slog.Logger
}

// Server is the page. It is an http.Handler, and starts no goroutine that outlives a request.
type Server struct {
	config  Config
	handler http.Handler
	streams chan struct{}
	looks   chan struct{}
	known   sessions
	drift   driftCache
	agents  agentCache
}

//go:embed assets
var assets embed.FS

// files are the parts of the page by their path.
var files = map[string]string{
	"/": "assets/index.html", "/web/page.js": "assets/page.js", "/web/page.css": "assets/page.css", "/web/icon.svg": "assets/icon.svg",
}

// New returns the page.
func New(config Config) *Server {
	s := &Server{config: config, streams: make(chan struct{}, maxStreams), looks: make(chan struct{}, maxLooks)}
	mux := http.NewServeMux()
	for path, name := range files {
		pattern := "GET " + path
		if path == "/" {
			pattern += "{$}"
		}
		mux.HandleFunc(pattern, serveFile(name))
	}
	mux.HandleFunc("GET /web/state", s.answer(s.state))
	mux.HandleFunc("GET /web/stream", s.stream)
	mux.HandleFunc("GET /web/history", s.answer(s.history))
	mux.HandleFunc("GET /web/settings", s.answer(s.bounded(s.settings)))
	mux.HandleFunc("GET /web/drills", s.answer(s.bounded(s.drills)))
	mux.HandleFunc("GET /web/drills/{id}", s.answer(s.bounded(s.drill)))
	mux.HandleFunc("GET /web/drill-plan", s.answer(s.bounded(s.drillPlan)))
	mux.HandleFunc("GET /web/drill-now", s.answer(s.bounded(s.drillNow)))
	mux.HandleFunc("GET /web/records", s.answer(s.bounded(s.records)))
	mux.HandleFunc("GET /web/session", s.answer(s.session))
	mux.HandleFunc("POST /web/login", s.login)
	mux.HandleFunc("POST /web/logout", s.logout)
	mux.HandleFunc("POST /web/switchover", s.change(s.switchover))
	mux.HandleFunc("POST /web/settings", s.change(s.setSettings))
	mux.HandleFunc("POST /web/change", s.change(s.changeGroup))
	mux.HandleFunc("POST /web/drill-abort", s.change(s.abortDrill))
	s.handler = s.guarded(http.NewCrossOriginProtection().Handler(mux))
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// guarded sets what every answer carries, and refuses requests to names that are not ours: a page of somebody else could have its own
// name lead here, and would then read what this page shows.
func (s *Server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !s.ours(r.Host) {
			fail(w, http.StatusMisdirectedRequest, fmt.Sprintf("this page does not answer to the name %.100q: use its address, localhost, or a name in --peers or --http; with --http-tls every name will do", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ours reports whether a browser may know us by that name. With TLS the certificate says so.
func (s *Server) ours(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return s.config.Secure || host == "localhost" || net.ParseIP(host) != nil || slices.Contains(s.config.Hosts, host)
}

func serveFile(name string) http.HandlerFunc {
	content, err := assets.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded
	}
	kind := mime.TypeByExtension(name[len(name)-4:])
	switch name[len(name)-3:] { // not what this machine thinks
	case "tml":
		kind = "text/html; charset=utf-8"
	case ".js":
		kind = "text/javascript; charset=utf-8"
	case "css":
		kind = "text/css; charset=utf-8"
	case "svg":
		kind = "image/svg+xml"
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(content) // who does not take the answer does not want it
	}
}

// answer serves what a function finds out, as JSON.
func (s *Server) answer(look func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(trust.WithCaller(r.Context(), s.caller(r)), lookPatience)
		defer cancel()
		value, err := look(r.WithContext(ctx))
		if err != nil {
			failWith(w, err)
			return
		}
		show(w, value)
	}
}

// bounded lets only so many look at once.
func (s *Server) bounded(look func(r *http.Request) (any, error)) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		select {
		case s.looks <- struct{}{}:
			defer func() { <-s.looks }()
			return look(r)
		case <-r.Context().Done():
			return nil, status.Error(codes.ResourceExhausted, "many look at this page now; try again")
		}
	}
}

func show(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // who does not take the answer does not want it
}

// problem is the answer to what cannot be done.
type problem struct {
	Error string `json:"error"`
}

func fail(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(problem{text}) // who does not take the answer does not want it
}

// refused is an error of the page's own.
type refused struct {
	code int
	text string
}

func (e *refused) Error() string { return e.text }

func refusef(code int, format string, args ...any) error {
	return &refused{code, fmt.Sprintf(format, args...)}
}

// failWith answers with an error of a management call, or of the page's own.
func failWith(w http.ResponseWriter, err error) {
	var own *refused
	if errors.As(err, &own) {
		fail(w, own.code, own.text)
		return
	}
	said := status.Convert(err)
	code, found := map[codes.Code]int{
		codes.PermissionDenied: http.StatusForbidden, codes.Unauthenticated: http.StatusForbidden, codes.Unavailable: http.StatusServiceUnavailable,
		codes.FailedPrecondition: http.StatusConflict, codes.Aborted: http.StatusConflict, codes.AlreadyExists: http.StatusConflict,
		codes.InvalidArgument: http.StatusBadRequest, codes.NotFound: http.StatusNotFound, codes.OutOfRange: http.StatusNotFound,
		codes.ResourceExhausted: http.StatusTooManyRequests, codes.DeadlineExceeded: http.StatusGatewayTimeout,
	}[said.Code()]
	if !found {
		code = http.StatusBadGateway
	}
	fail(w, code, said.Message())
}

// read decodes what a browser sent.
func read(w http.ResponseWriter, r *http.Request, target any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return refusef(http.StatusUnsupportedMediaType, "send application/json")
	}
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(target); err != nil {
		return refusef(http.StatusBadRequest, "this is no request that the page would send: %v", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return refusef(http.StatusBadRequest, "something stands behind the request")
	}
	return nil
}

// driftCache keeps what the nodes of a group said for a moment, so that many browsers cost no more than one.
type driftCache struct {
	mu    sync.Mutex
	group string
	at    time.Time
	found *settingsView
}
