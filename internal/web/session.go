package web

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/obs"
	"lockstep/internal/trust"
	"lockstep/proto"
)

const (
	// maxSessions bounds who is logged in at once, maxCodes the codes that wait. Full: the oldest one goes.
	maxSessions = 64
	maxCodes    = 64
	// codeGood is how long a code can be used. A session ends idleTime after its last request, and sessionTime after the log-in: a
	// certificate that was replaced is asked for again then.
	codeGood    = 2 * time.Minute
	idleTime    = time.Hour
	sessionTime = 8 * time.Hour
	// tokenHeader carries the token that only a page of ours can know.
	tokenHeader = "X-Lockstep-Token" // #nosec G101 -- the name of a header
	// maxWho bounds how a caller is named, in bytes: a longer name is not passed on to the leader.
	maxWho = 240
)

// session is somebody who logged in.
type session struct {
	caller trust.Caller
	token  string // that changes must carry
	since  time.Time
	used   time.Time
}

// pass is a code that can be used once.
type pass struct {
	caller trust.Caller
	since  time.Time
}

// sessions are those of this process. Secrets are kept as their hashes only: what is found by one was looked up in no time that
// depends on it.
type sessions struct {
	mu    sync.Mutex
	open  map[[sha256.Size]byte]*session
	codes map[[sha256.Size]byte]pass
}

// begin makes a session and returns the secret of its cookie.
func (s *sessions) begin(caller trust.Caller) (secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy()
	if s.open == nil {
		s.open = make(map[[sha256.Size]byte]*session)
	}
	if len(s.open) >= maxSessions {
		var oldest [sha256.Size]byte
		for key, one := range s.open {
			if old := s.open[oldest]; old == nil || one.used.Before(old.used) {
				oldest = key
			}
		}
		delete(s.open, oldest)
	}
	secret, now := rand.Text(), time.Now()
	s.open[sha256.Sum256([]byte(secret))] = &session{caller: caller, token: rand.Text(), since: now, used: now}
	return secret
}

// find returns the session of a secret; nil if there is none any more.
func (s *sessions) find(secret string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy()
	found := s.open[sha256.Sum256([]byte(secret))]
	if found == nil {
		return nil
	}
	found.used = time.Now()
	copied := *found
	return &copied
}

func (s *sessions) end(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(secret)))
}

// invite makes a code.
func (s *sessions) invite(caller trust.Caller) (code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy()
	if s.codes == nil {
		s.codes = make(map[[sha256.Size]byte]pass)
	}
	if len(s.codes) >= maxCodes {
		var oldest [sha256.Size]byte
		for key, one := range s.codes {
			if old, there := s.codes[oldest]; !there || one.since.Before(old.since) {
				oldest = key
			}
		}
		delete(s.codes, oldest)
	}
	code = rand.Text()
	s.codes[sha256.Sum256([]byte(code))] = pass{caller, time.Now()}
	return code
}

// redeem uses a code up.
func (s *sessions) redeem(code string) (trust.Caller, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy()
	key := sha256.Sum256([]byte(code))
	found, there := s.codes[key]
	delete(s.codes, key)
	return found.caller, there
}

// tidy forgets what is over. Called with mu held.
func (s *sessions) tidy() {
	now := time.Now()
	for key, one := range s.open {
		if now.Sub(one.used) >= idleTime || now.Sub(one.since) >= sessionTime {
			delete(s.open, key)
		}
	}
	for key, one := range s.codes {
		if now.Sub(one.since) >= codeGood {
			delete(s.codes, key)
		}
	}
}

// cookieName is another one for each configuration master: browsers do not tell ports of a host apart.
func (s *Server) cookieName() string {
	return "__Host-lockstep-c" + strconv.FormatUint(s.config.Self, 10)
}

// sessionOf returns the session of a request, nil if it has none.
func (s *Server) sessionOf(r *http.Request) (one *session, secret string) {
	cookie, err := r.Cookie(s.cookieName())
	if err != nil || s.noLogin() != "" {
		return nil, ""
	}
	return s.known.find(cookie.Value), cookie.Value
}

// caller is on whose behalf a request is served.
func (s *Server) caller(r *http.Request) trust.Caller {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if one, _ := s.sessionOf(r); one != nil {
		caller := one.caller
		caller.Addr, caller.For = r.RemoteAddr, s.named(caller, host)
		return caller
	}
	return trust.Visitor(s.config.Cluster, r.RemoteAddr)
}

// named is a caller as the work log names him.
func (s *Server) named(caller trust.Caller, host string) string {
	who := caller.Peer.String() + " from " + host + " at the web page of c" + strconv.FormatUint(s.config.Self, 10)
	return strings.ToValidUTF8(who[:min(len(who), maxWho)], "")
}

// noLogin says why nobody can log in here, and what to do; "" if one can.
func (s *Server) noLogin() string {
	switch {
	case s.config.Keeper == nil:
		return "this cluster has no certificates, so the page cannot know who you are, and changes nothing: use smrctl, or give the processes certificates (smrctl cert; on this machine: smrctl up --tls in a new directory) and the configuration masters --http-tls on"
	case !s.config.Secure:
		return "the page is served without TLS, where a log-in could be read: start the configuration masters with --http-tls on (or mutual)"
	}
	return ""
}

// sessionView is what a browser knows of itself.
type sessionView struct {
	Who         string   `json:"who"` // "" if nobody is logged in
	Roles       []string `json:"roles"`
	MayChange   bool     `json:"may_change"`
	Token       string   `json:"token"`
	NoLogin     string   `json:"no_login"`    // why one cannot log in; "" if one can
	Certificate string   `json:"certificate"` // whose certificate the browser shows, "" for nobody's
	Self        uint64   `json:"self"`
	Cluster     string   `json:"cluster"`
}

func (s *Server) session(r *http.Request) (any, error) {
	view := sessionView{Roles: []string{}, NoLogin: s.noLogin(), Self: s.config.Self, Cluster: s.config.Cluster}
	if caller, shown := s.certificate(r); shown {
		view.Certificate = caller.Peer.String()
	}
	if one, _ := s.sessionOf(r); one != nil {
		view.Who, view.Token, view.MayChange = one.caller.Peer.String(), one.token, one.caller.May(trust.Operator)
		for _, role := range []trust.Role{trust.Viewer, trust.Operator, trust.Admin} {
			if one.caller.May(role) {
				view.Roles = append(view.Roles, string(role))
			}
		}
	}
	return view, nil
}

// certificate returns who the browser's certificate belongs to, where one is asked for (--http-tls mutual).
func (s *Server) certificate(r *http.Request) (trust.Caller, bool) {
	conn := obs.ConnOf(r.Context())
	if conn == nil || s.noLogin() != "" {
		return trust.Caller{}, false
	}
	caller := s.config.Keeper.ClientCaller(conn)
	return caller, caller.May(trust.Viewer)
}

// Invite lets the caller log in, once and soon. The error is one of a management call.
func (s *Server) Invite(caller trust.Caller) (*proto.OpenWebReply, error) {
	if why := s.noLogin(); why != "" {
		return nil, status.Error(codes.FailedPrecondition, why)
	}
	if !caller.Secure || !caller.May(trust.Viewer) || caller.For != "" {
		return nil, status.Error(codes.PermissionDenied, "show a certificate with the role viewer, operator or admin")
	}
	return &proto.OpenWebReply{Page: s.config.URL, Code: s.known.invite(caller), GoodMs: uint32(codeGood.Milliseconds()), Who: caller.Peer.String()}, nil
}

// login begins a session.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	var request struct {
		Code        string `json:"code"`
		Certificate bool   `json:"certificate"`
	}
	if err := read(w, r, &request); err != nil {
		failWith(w, err)
		return
	}
	if why := s.noLogin(); why != "" {
		fail(w, http.StatusForbidden, why)
		return
	}
	var caller trust.Caller
	var known bool
	if request.Certificate {
		caller, known = s.certificate(r)
	} else {
		caller, known = s.known.redeem(strings.TrimSpace(request.Code))
	}
	if !known {
		s.config.Logger.Warn("log-in at the web page refused", "from", r.RemoteAddr)
		fail(w, http.StatusForbidden, "this code is not, or no longer, good: each can be used once, within "+codeGood.String()+", and at the configuration master that gave it. `smrctl web login` gives another one")
		return
	}
	s.config.Logger.Info("audit", "who", caller.Peer.String(), "from", r.RemoteAddr, "what", "log in at the web page", "outcome", "done")
	s.setCookie(w, s.known.begin(caller), int(sessionTime.Seconds()))
	show(w, struct{}{})
}

func (s *Server) setCookie(w http.ResponseWriter, secret string, seconds int) {
	http.SetCookie(w, &http.Cookie{Name: s.cookieName(), Value: secret, Path: "/", MaxAge: seconds, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// checkToken refuses a change that does not come from a page that this session was told its token by.
func checkToken(r *http.Request, one *session) error {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(tokenHeader)), []byte(one.token)) != 1 {
		return refusef(http.StatusForbidden, "the request does not carry the token of this session: load the page again")
	}
	return nil
}

// logout ends a session.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	if one, secret := s.sessionOf(r); one != nil {
		if err := checkToken(r, one); err != nil {
			failWith(w, err)
			return
		}
		s.known.end(secret)
	}
	s.setCookie(w, "", -1)
	show(w, struct{}{})
}
