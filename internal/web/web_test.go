package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/drill/report"
	"lockstep/internal/trust"
	"lockstep/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cluster = "c-test"
	hostile = `</script><img src=x onerror=alert(1)>`
)

// masters is a configuration master that remembers who changed what.
type masters struct {
	proto.UnimplementedConfmasterServer

	mu      sync.Mutex
	changes []string
	silent  bool
	drill   string // that has n1
	looks   int    // at the agents
}

func (m *masters) Status(context.Context, *proto.StatusRequest) (*proto.ClusterStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.silent {
		return nil, status.Error(codes.Unavailable, "starting; try again")
	}
	return &proto.ClusterStatus{Cluster: cluster, HasLeader: true, Confmasters: []*proto.ConfmasterStatus{{Id: 1, Addr: "10.0.0.1:7", Leader: true}, {Id: 2, Addr: "10.0.0.2:7", Up: true}}, Groups: []*proto.GroupStatus{{
		Name: "g1", Master: "n1", State: hostile, Detail: hostile, Replicas: []*proto.ReplicaStatus{{Node: "n1", KvAddr: hostile, Saw: hostile, State: &proto.ReplicaState{Role: "master"}}},
	}}}, nil
}

func (m *masters) WorkLog(context.Context, *proto.WorkLogRequest) (*proto.WorkLogReply, error) {
	return &proto.WorkLogReply{Entries: []*proto.WorkEntry{{Id: 1, Group: "g1", Kind: "election", Reason: hostile, Witnesses: []*proto.Witness{{Saw: hostile}}}}}, nil
}

func (m *masters) Settings(context.Context, *proto.GroupSettingsRequest) (*proto.GroupSettings, error) {
	return &proto.GroupSettings{Group: "g1", Version: 3,
		Settings: []*proto.Setting{{Kind: "config", Name: "masterauth", Value: "very secret"}, {Kind: "user", Name: "anna", Value: "on #0123456789abcdef ~* +@all"}},
		History:  []*proto.SettingsChange{{Version: 1, Kind: "user", Name: "anna", Value: "on #0123456789abcdef ~* +@all", By: hostile}, {Version: 2, Kind: "config", Name: "masterauth", Value: "very secret"}}}, nil
}

func (m *masters) Events(_ *proto.EventsRequest, stream grpc.ServerStreamingServer[proto.Event]) error {
	if err := stream.Send(&proto.Event{Id: 7, Name: "established", Text: hostile}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (m *masters) note(ctx context.Context, what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changes = append(m.changes, trust.CallerOf(ctx).String()+": "+what)
}

func (m *masters) Switchover(ctx context.Context, request *proto.SwitchoverRequest) (*proto.ChangeReply, error) {
	m.note(ctx, "switch over to "+request.GetTo())
	return &proto.ChangeReply{Epoch: 5, Text: "done"}, nil
}

func (m *masters) Change(ctx context.Context, request *proto.ChangeRequest) (*proto.ChangePlan, error) {
	if request.GetSettings() == nil {
		return m.changeGroup(ctx, request)
	}
	if !trust.CallerOf(ctx).May(trust.Admin) && request.GetSettings().GetSettings()[0].GetName() == "requirepass" {
		return nil, status.Error(codes.PermissionDenied, "it needs the role admin")
	}
	m.note(ctx, "set "+request.GetSettings().GetSettings()[0].GetName())
	return &proto.ChangePlan{Version: 4, Text: "done"}, nil
}

// version is that of the group as the fake has it.
const version = 7

func (m *masters) changeGroup(ctx context.Context, request *proto.ChangeRequest) (*proto.ChangePlan, error) {
	if request.GetVersion() != 0 && request.GetVersion() != version {
		return nil, status.Error(codes.Aborted, "somebody else has changed the group: look again")
	}
	if !request.GetDryRun() {
		m.note(ctx, fmt.Sprint(request.GetChange()))
	}
	return &proto.ChangePlan{Version: version, Checks: []string{hostile}, Steps: []string{hostile}, Text: "done"}, nil
}

func (m *masters) DrillState(context.Context, *proto.DrillStateRequest) (*proto.DrillStateReply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks++
	return &proto.DrillStateReply{Agents: []*proto.DrillAgent{
		{Name: "n1", Faults: &proto.FaultsReply{Allowed: true, Drill: m.drill, By: hostile, Faults: []string{"reserve", "links"}, LeftMs: 5}}, {Name: "c1", Problem: hostile}}}, nil
}

func (m *masters) EndDrill(ctx context.Context, request *proto.EndDrillRequest) (*proto.ChangeReply, error) {
	m.note(ctx, "end drill "+request.GetDrill())
	return &proto.ChangeReply{Text: "told"}, nil
}

func (m *masters) done() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string{}, m.changes...)
}

// people makes certificates, and callers of them.
type people struct {
	t      *testing.T
	dir    string
	keeper *trust.Keeper
}

func newPeople(t *testing.T) *people {
	t.Helper()
	p := &people{t: t, dir: filepath.Join(t.TempDir(), "ca")}
	if err := trust.MakeCA(p.dir, cluster, time.Hour); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.keeper, err = trust.Open(p.issue("c1", trust.Confmaster), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *people) issue(name string, roles ...trust.Role) trust.Files {
	p.t.Helper()
	files, err := trust.Issue(p.dir, filepath.Join(p.dir, "certs"), name, trust.Request{Cluster: cluster, Roles: roles, Name: name, Hosts: []string{"127.0.0.1"}, Life: time.Hour})
	if err != nil {
		p.t.Fatal(err)
	}
	return files
}

// caller is somebody with a certificate, as a management call shows him.
func (p *people) caller(name string, role trust.Role) trust.Caller {
	p.t.Helper()
	content, err := os.ReadFile(p.issue(name, role).Cert)
	if err != nil {
		p.t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		p.t.Fatal(err)
	}
	peer, err := p.keeper.PeerOf(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
	if err != nil {
		p.t.Fatal(err)
	}
	return trust.Caller{Peer: peer, Secure: true, Addr: "192.0.2.1:5"}
}

// setup is a page with TLS, unless keeper is nil.
func setup(keeper *trust.Keeper) (*Server, *masters) {
	m := &masters{}
	return New(Config{Cluster: cluster, Self: 1, Masters: m, Keeper: keeper, Secure: keeper != nil, URL: "https://127.0.0.1:1/", Hosts: []string{"cm1.test"}, Logger: slog.New(slog.DiscardHandler),
		Dial: func(string, trust.Wanted) (*grpc.ClientConn, error) {
			return nil, status.Error(codes.Unavailable, "nobody there")
		}}), m
}

// request sends what a browser would; headers are names and values.
func request(s *Server, method, path, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:9"+path, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := &recorder{httptest.NewRecorder()}
	s.ServeHTTP(w, r)
	return w.ResponseRecorder
}

// recorder has deadlines, as a connection has.
type recorder struct{ *httptest.ResponseRecorder }

func (*recorder) SetReadDeadline(time.Time) error  { return nil }
func (*recorder) SetWriteDeadline(time.Time) error { return nil }

// login logs somebody in and returns the cookie and the token of the session.
func login(t *testing.T, s *Server, caller trust.Caller) (cookie, token string) {
	t.Helper()
	reply, err := s.Invite(caller)
	if err != nil {
		t.Fatal(err)
	}
	w := request(s, "POST", "/web/login", `{"code":"`+reply.GetCode()+`"}`)
	if w.Code != http.StatusOK {
		t.Fatalf("log-in: %d %s", w.Code, w.Body)
	}
	set := w.Header().Get("Set-Cookie")
	for _, part := range []string{"__Host-lockstep-c1=", "; Path=/", "; HttpOnly", "; Secure", "; SameSite=Strict"} {
		if !strings.Contains(set, part) {
			t.Errorf("the cookie %q lacks %q", set, part)
		}
	}
	if strings.Contains(set, "Domain") {
		t.Errorf("the cookie %q is for other hosts, too", set)
	}
	cookie, _, _ = strings.Cut(set, ";")
	var view sessionView
	if err := json.Unmarshal(request(s, "GET", "/web/session", "", "Cookie", cookie).Body.Bytes(), &view); err != nil || view.Token == "" {
		t.Fatal(view, err)
	}
	return cookie, view.Token
}

const switchOver = `{"group":"g1","to":"n2"}`

// What could go wrong: somebody who has not shown who he is changes something. Each way to have no log-in is tried; the answer must
// say what to do, and nothing may be done.
func TestNothingChangesWithoutLogin(t *testing.T) {
	p := newPeople(t)
	open, first := setup(nil)
	secure, second := setup(p.keeper)
	clear, third := setup(p.keeper)
	clear.config.Secure = false
	for _, test := range []struct {
		name string
		s    *Server
		code int
		says string
	}{
		{"no certificates", open, http.StatusForbidden, "smrctl cert"}, {"no TLS", clear, http.StatusForbidden, "--http-tls on"}, {"no log-in", secure, http.StatusUnauthorized, "smrctl web login"},
	} {
		for path, body := range map[string]string{"/web/switchover": switchOver, "/web/settings": `{"group":"g1","settings":[{"name":"a","value":"b"}]}`,
			"/web/change": `{"group":"g1","dry_run":true,"cancel":true}`, "/web/drill-abort": `{"group":"g1","drill":"d"}`} {
			w := request(test.s, "POST", path, body, "Cookie", "__Host-lockstep-c1=guess", tokenHeader, "guess")
			if w.Code != test.code || !strings.Contains(w.Body.String(), test.says) {
				t.Errorf("%s, %s: %d %s", test.name, path, w.Code, w.Body)
			}
		}
		if w := request(test.s, "POST", "/web/login", `{"code":"guess"}`); w.Code != http.StatusForbidden || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: log-in with a guess: %d %s", test.name, w.Code, w.Body)
		}
		if w := request(test.s, "POST", "/web/login", `{"certificate":true}`); w.Code != http.StatusForbidden {
			t.Errorf("%s: log-in without a certificate: %d", test.name, w.Code)
		}
	}
	for _, s := range []*Server{open, clear} {
		if _, err := s.Invite(p.caller("root", trust.Admin)); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a code is given where nobody can log in: %v", err)
		}
	}
	passedOn := p.caller("root2", trust.Admin)
	passedOn.For = "somebody"
	for _, caller := range []trust.Caller{{}, {Secure: true}, passedOn, p.caller("n1", trust.KVNode)} {
		if _, err := secure.Invite(caller); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v is given a code: %v", caller, err)
		}
	}
	for _, m := range []*masters{first, second, third} {
		if done := m.done(); len(done) != 0 {
			t.Errorf("done: %v", done)
		}
	}
}

// What could go wrong: a viewer changes something; a page of another origin has a logged-in browser change something; an operator does what needs an
// admin; what is done is not done in the operator's name.
func TestChangesNeedRoleTokenAndOrigin(t *testing.T) {
	p := newPeople(t)
	s, m := setup(p.keeper)
	viewer, viewerToken := login(t, s, p.caller("victor", trust.Viewer))
	operator, token := login(t, s, p.caller("olga", trust.Operator))
	for _, test := range []struct {
		name    string
		code    int
		headers []string
	}{
		{"a viewer", http.StatusForbidden, []string{"Cookie", viewer, tokenHeader, viewerToken}},
		{"no token", http.StatusForbidden, []string{"Cookie", operator}},
		{"the token of another session", http.StatusForbidden, []string{"Cookie", operator, tokenHeader, viewerToken}},
		{"another site", http.StatusForbidden, []string{"Cookie", operator, tokenHeader, token, "Sec-Fetch-Site", "cross-site"}},
		{"another port of this site", http.StatusForbidden, []string{"Cookie", operator, tokenHeader, token, "Sec-Fetch-Site", "same-site"}},
		{"another origin, an old browser", http.StatusForbidden, []string{"Cookie", operator, tokenHeader, token, "Sec-Fetch-Site", "", "Origin", "https://evil.test"}},
		{"a form", http.StatusUnsupportedMediaType, []string{"Cookie", operator, tokenHeader, token, "Content-Type", "text/plain"}},
	} {
		if w := request(s, "POST", "/web/switchover", switchOver, test.headers...); w.Code != test.code {
			t.Errorf("%s: %d %s", test.name, w.Code, w.Body)
		}
	}
	for _, body := range []string{"", "{", `{"group":"g1","more":1}`, switchOver + "x", `{"group":"` + strings.Repeat("x", maxBody) + `"}`} {
		if w := request(s, "POST", "/web/switchover", body, "Cookie", operator, tokenHeader, token); w.Code != http.StatusBadRequest {
			t.Errorf("%.40q: %d", body, w.Code)
		}
	}
	if done := m.done(); len(done) != 0 {
		t.Fatalf("done: %v", done)
	}
	if w := request(s, "POST", "/web/switchover", switchOver, "Cookie", operator, tokenHeader, token); w.Code != http.StatusOK {
		t.Errorf("switch-over: %d %s", w.Code, w.Body)
	}
	if w := request(s, "POST", "/web/settings", `{"group":"g1","settings":[{"name":"maxmemory","value":"1gb"}]}`, "Cookie", operator, tokenHeader, token); w.Code != http.StatusOK {
		t.Errorf("settings: %d %s", w.Code, w.Body)
	}
	if w := request(s, "POST", "/web/settings", `{"group":"g1","settings":[{"name":"requirepass","value":"x"}]}`, "Cookie", operator, tokenHeader, token); w.Code != http.StatusForbidden {
		t.Errorf("what needs an admin: %d %s", w.Code, w.Body)
	}
	want := []string{"operator/olga from 192.0.2.1 at the web page of c1: switch over to n2", "operator/olga from 192.0.2.1 at the web page of c1: set maxmemory"}
	if done := m.done(); strings.Join(done, "\n") != strings.Join(want, "\n") {
		t.Errorf("done: %q", done)
	}
	if w := request(s, "POST", "/web/logout", "{}", "Cookie", operator); w.Code != http.StatusForbidden {
		t.Errorf("somebody else's page logs the operator out: %d", w.Code)
	}
	if w := request(s, "POST", "/web/logout", "{}", "Cookie", operator, tokenHeader, token); w.Code != http.StatusOK {
		t.Errorf("log-out: %d", w.Code)
	}
	if w := request(s, "POST", "/web/switchover", switchOver, "Cookie", operator, tokenHeader, token); w.Code != http.StatusUnauthorized {
		t.Errorf("after the log-out: %d", w.Code)
	}
}

// A code is good once and soon; a session ends when nobody uses it, and at last; there is room for so many.
func TestCodesAndSessionsEnd(t *testing.T) {
	p := newPeople(t)
	caller := p.caller("olga", trust.Operator)
	synctest.Test(t, func(t *testing.T) {
		var s sessions
		code := s.invite(caller)
		if _, known := s.redeem(code); !known {
			t.Error("a code is refused")
		}
		if _, known := s.redeem(code); known {
			t.Error("a code is taken twice")
		}
		code = s.invite(caller)
		time.Sleep(codeGood)
		if _, known := s.redeem(code); known {
			t.Error("an old code is taken")
		}
		first := s.begin(caller)
		time.Sleep(idleTime)
		if s.find(first) != nil {
			t.Error("a session outlives an hour without use")
		}
		second := s.begin(caller)
		for begun := time.Now(); time.Since(begun) < sessionTime; time.Sleep(idleTime / 2) {
			if s.find(second) == nil {
				t.Fatalf("a session that is used ends after %v", time.Since(begun))
			}
		}
		if s.find(second) != nil {
			t.Error("a session outlives its time")
		}
		old := s.begin(caller)
		for range maxSessions {
			time.Sleep(time.Second)
			s.begin(caller)
			s.invite(caller)
		}
		s.invite(caller)
		if s.find(old) != nil || len(s.open) != maxSessions || len(s.codes) > maxCodes {
			t.Errorf("%d sessions, %d codes", len(s.open), len(s.codes))
		}
	})
}

// inline is script or style inside of markup, which the policy would not run.
var inline = regexp.MustCompile(`(?i)<script(?:>| [^>]*[^r]>)[^<]|\sstyle=|\son[a-z]+=|<style|javascript:|https?://`)

// dangerous makes markup, or code, of text.
var dangerous = regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://[^w]`)

// What could go wrong: an answer without the policy, a page that needs what the policy forbids or what lies elsewhere, text of the cluster that is
// answered as something else than JSON.
func TestPolicyAndEscapes(t *testing.T) {
	s, _ := setup(newPeople(t).keeper)
	for path := range files {
		w := request(s, "GET", path, "")
		if w.Code != http.StatusOK || w.Body.Len() == 0 {
			t.Errorf("%s: %d", path, w.Code)
		}
		content := w.Body.String()
		switch {
		case path == "/" && inline.MatchString(content):
			t.Errorf("%s has %q", path, inline.FindString(content))
		case strings.HasSuffix(path, ".js") && dangerous.MatchString(content):
			t.Errorf("%s has %q", path, dangerous.FindString(content))
		case strings.HasSuffix(path, ".css") && (strings.Contains(content, "url(") || strings.Contains(content, "@import")):
			t.Errorf("%s loads something", path)
		}
	}
	for _, path := range []string{"/", "/web/page.js", "/web/page.css", "/web/icon.svg", "/web/state", "/web/history?group=g1", "/web/settings", "/web/session", "/web/drills", "/web/drill-plan", "/web/drill-now", "/web/records", "/web/nothing"} {
		w := request(s, "GET", path, "")
		policy := w.Header().Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy %q lacks %s", path, policy, part)
			}
		}
		if strings.Contains(policy, "unsafe") || w.Header().Get("X-Content-Type-Options") != "nosniff" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, w.Header())
		}
		if strings.Contains(w.Body.String(), hostile) || strings.Contains(w.Body.String(), "<img src=x") {
			t.Errorf("%s answers hostile text as it is: %s", path, w.Body)
		}
	}
	for _, path := range []string{"/web/state", "/web/history", "/web/settings", "/web/drill-plan?group=g1&drill=switchover", "/web/drill-now?group=g1"} {
		w := request(s, "GET", path, "")
		var value any
		if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" || json.Unmarshal(w.Body.Bytes(), &value) != nil || !bytes.Contains(w.Body.Bytes(), []byte(`onerror=alert(1)`)) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// Passwords and their hashes are shown to nobody; what users may is shown to who says who he is.
func TestSecretsAreHidden(t *testing.T) {
	p := newPeople(t)
	s, _ := setup(p.keeper)
	cookie, _ := login(t, s, p.caller("victor", trust.Viewer))
	for name, headers := range map[string][]string{"visitor": nil, "viewer": {"Cookie", cookie}} {
		w := request(s, "GET", "/web/settings", "", headers...)
		if w.Code != http.StatusOK || strings.Contains(w.Body.String(), "very secret") || strings.Contains(w.Body.String(), "abcdef") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if shown := strings.Contains(w.Body.String(), "+@all"); shown != (name == "viewer") {
			t.Errorf("%s sees the rules of users: %v", name, shown)
		}
	}
}

// A name that leads here by somebody else's will is refused where no certificate says whose it is.
func TestOtherNamesAreRefused(t *testing.T) {
	open, _ := setup(nil)
	for host, code := range map[string]int{
		"127.0.0.1:80": 200, "[::1]:80": 200, "localhost:80": 200, "localhost": 200, "cm1.test:9": 200, "10.0.0.7:80": 200,
		"evil.test": 421, "evil.test:80": 421, "cm1.test.evil.test": 421, "": 421,
	} {
		r := httptest.NewRequest("GET", "/web/state", nil)
		r.Host = host
		w := httptest.NewRecorder()
		open.ServeHTTP(w, r)
		if w.Code != code {
			t.Errorf("%q: %d %s", host, w.Code, w.Body)
		}
	}
}

// Drills are read from their directory, and from nowhere else.
func TestDrillsStayInTheirDirectory(t *testing.T) {
	s, _ := setup(nil)
	if w := request(s, "GET", "/web/drills", ""); !strings.Contains(w.Body.String(), `"directory":false,"drills":[]`) {
		t.Errorf("without a directory: %s", w.Body)
	}
	base := t.TempDir()
	s.config.Drills = filepath.Join(base, "drills")
	if w := request(s, "GET", "/web/drills", ""); !strings.Contains(w.Body.String(), `"directory":true,"drills":[]`) {
		t.Errorf("before the first drill: %s", w.Body)
	}
	put := func(dir, content string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "report.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(filepath.Join(base, "outside"), `{"id":"outside","drill":"secret"}`)
	put(filepath.Join(s.config.Drills, "a-1"), `{"id":"a-1","drill":"kill-master","verdict":"passed"}`)
	put(filepath.Join(s.config.Drills, "b-2"), `{"id":"b-2","drill":"switchover","verdict":"failed"}`)
	put(filepath.Join(s.config.Drills, "c-3"), `not JSON`)
	put(filepath.Join(s.config.Drills, "d-4"), `{"id":"d-4","drill":"`+strings.Repeat("x", maxReport)+`"}`)
	if err := os.Symlink(filepath.Join(base, "outside"), filepath.Join(s.config.Drills, "outside")); err != nil {
		t.Fatal(err)
	}
	list := request(s, "GET", "/web/drills", "").Body.String()
	if strings.Index(list, "b-2") > strings.Index(list, "a-1") || strings.Contains(list, "secret") || strings.Contains(list, "d-4") || strings.Count(list, `"id"`) != 2 {
		t.Errorf("listed: %s", list)
	}
	if w := request(s, "GET", "/web/drills/a-1", ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "kill-master") {
		t.Errorf("a report: %d %s", w.Code, w.Body)
	}
	for _, id := range []string{"outside", "..", "%2e%2e", "..%2foutside", "c-3", "d-4", "e-5", "a-1%2freport.json", "."} {
		if w := request(s, "GET", "/web/drills/"+id, ""); w.Code == http.StatusOK || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %s", id, w.Code, w.Body)
		}
	}
}

// The stream sends the state and events until the browser goes away, which leaves nothing behind; there is room for so many.
func TestStream(t *testing.T) {
	s, m := setup(nil)
	server := httptest.NewServer(s)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func() *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/web/stream", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { answer.Body.Close() })
		return answer
	}
	answer := open()
	lines := bufio.NewReader(answer.Body)
	await := func(want ...string) {
		t.Helper()
		for len(want) > 0 {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatalf("before %q: %v", want, err)
			}
			if strings.Contains(line, hostile) {
				t.Errorf("hostile text as it is: %s", line)
			}
			if strings.Contains(line, want[0]) {
				want = want[1:]
			}
		}
	}
	await("event: state", `"cluster":"c-test"`, "event: happened", `"id":7`, "event: state")
	m.mu.Lock()
	m.silent = true
	m.mu.Unlock()
	await("event: silence", "starting; try again")
	for range maxStreams - 1 {
		if one := open(); one.StatusCode != http.StatusOK {
			t.Fatalf("status %d", one.StatusCode)
		}
	}
	if one := open(); one.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one too many: status %d", one.StatusCode)
	}
	cancel()
	http.DefaultClient.CloseIdleConnections()
}

// What a page of the log is asked for is checked before anybody is asked.
func TestRecordsAreChecked(t *testing.T) {
	s, _ := setup(nil)
	for query, code := range map[string]int{
		"?node=n1&count=25": http.StatusServiceUnavailable, "?node=n1": 400, "?node=n1&count=101": 400, "?node=n1&count=25&from=-1": 400, "?node=n1&count=25&before=99999999999999999999": 400,
		"?node=n9&count=25": 404, "?group=g9&node=n1&count=25": 404,
	} {
		if w := request(s, "GET", "/web/records"+query, ""); w.Code != code {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
	if w := request(s, "DELETE", "/web/state", ""); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("DELETE: %d", w.Code)
	}
}

// What could go wrong: a change of the group is done to what somebody else has made of it meanwhile; one that the browser never saw the plan of is
// done; two at once; a dry run changes something; what is done is not done in the operator's name.
func TestChangesOfTheGroupAreVersioned(t *testing.T) {
	p := newPeople(t)
	s, m := setup(p.keeper)
	cookie, token := login(t, s, p.caller("olga", trust.Operator))
	send := func(body string) *httptest.ResponseRecorder {
		return request(s, "POST", "/web/change", body, "Cookie", cookie, tokenHeader, token)
	}
	for body, code := range map[string]int{
		`{"group":"g1","dry_run":true,"drain":{"node":"n2"}}`:                   http.StatusOK,
		`{"group":"g1","drain":{"node":"n2"}}`:                                  http.StatusBadRequest, // nobody has looked
		`{"group":"g1","version":6,"drain":{"node":"n2"}}`:                      http.StatusConflict,   // somebody was faster
		`{"group":"g1","version":7}`:                                            http.StatusBadRequest,
		`{"group":"g1","version":7,"cancel":true,"drain":{"node":"n2"}}`:        http.StatusBadRequest,
		`{"group":"g1","version":7,"policy":{"copies":0}}`:                      http.StatusBadRequest,
		`{"group":"g1","version":7,"policy":{"copies":-1}}`:                     http.StatusBadRequest,
		`{"group":"g1","version":7,"recover":{"confirm":"g1","accept_loss":1}}`: http.StatusBadRequest,
	} {
		if w := send(body); w.Code != code {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if done := m.done(); len(done) != 0 {
		t.Fatalf("done: %v", done)
	}
	for _, body := range []string{`{"group":"g1","version":7,"drain":{"node":"n2","switchover":true}}`, `{"group":"g1","version":7,"policy":{"copies":3,"slow_bytes":0}}`, `{"group":"g1","version":7,"cancel":true}`} {
		if w := send(body); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	done := m.done()
	for i, want := range []string{"node:\"n2\"", "copies:3", "&{}"} {
		if i >= len(done) || !strings.HasPrefix(done[i], "operator/olga from 192.0.2.1 at the web page of c1: ") || !strings.Contains(strings.ToLower(done[i]), want) {
			t.Errorf("done: %q, want %s", done, want)
		}
	}
}

// What could go wrong: a drill that is under way is not shown, or with what is read from elsewhere; each browser asks all agents anew; it is aborted by
// whoever may only look.
func TestDrillUnderWayIsShownAndAborted(t *testing.T) {
	p := newPeople(t)
	s, m := setup(p.keeper)
	m.drill = "20260102T030405.000Z-isolate-master"
	s.config.Drills = filepath.Join(t.TempDir(), "drills")
	folder := filepath.Join(s.config.Drills, m.drill)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	first := report.ProgressLine(time.UnixMilli(1), "the first "+strings.Repeat("x", 100))
	text := strings.Repeat(first, maxProgress/len(first)+1) + report.ProgressLine(time.UnixMilli(2), hostile)
	if err := os.WriteFile(filepath.Join(folder, report.ProgressName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	look := func() (view drillNowView) {
		t.Helper()
		w := request(s, "GET", "/web/drill-now?group=g1", "")
		if err := json.Unmarshal(w.Body.Bytes(), &view); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		return view
	}
	view := look()
	if view.Drill != m.drill || view.By != hostile || !view.Known || len(view.Agents) != 2 || strings.Join(view.Agents[0].Faults, " ") != "links" || view.Agents[1].Problem == "" {
		t.Errorf("%+v", view)
	}
	if n := len(view.Progress); n < 10 || view.Progress[n-1] != (report.Step{TimeMs: 2, Text: hostile}) || view.Progress[0].TimeMs != 1 {
		t.Errorf("%d steps", n)
	}
	for range 5 {
		look()
	}
	if m.looks > 2 {
		t.Errorf("the agents were asked %d times", m.looks)
	}
	m.drill, s.agents.found = "../outside", nil
	if view := look(); view.Known || len(view.Progress) != 0 {
		t.Errorf("read from outside: %+v", view)
	}
	viewer, viewerToken := login(t, s, p.caller("victor", trust.Viewer))
	operator, token := login(t, s, p.caller("olga", trust.Operator))
	if w := request(s, "POST", "/web/drill-abort", `{"group":"g1","drill":"d"}`, "Cookie", viewer, tokenHeader, viewerToken); w.Code != http.StatusForbidden {
		t.Errorf("a viewer: %d %s", w.Code, w.Body)
	}
	if w := request(s, "POST", "/web/drill-abort", `{"group":"g1","drill":"d"}`, "Cookie", operator, tokenHeader, token); w.Code != http.StatusOK {
		t.Errorf("an operator: %d %s", w.Code, w.Body)
	}
	if done := m.done(); len(done) != 1 || !strings.HasSuffix(done[0], "end drill d") {
		t.Errorf("done: %q", done)
	}
}

// The command that is shown is one that a shell takes as it is meant, and of a cluster on this machine the one that starts again what it kills.
func TestDrillPlanHasTheCommand(t *testing.T) {
	s, m := setup(nil)
	s.config.Drills = filepath.Join(t.TempDir(), "a b", "drills")
	plan := func(query string) (view drillPlanView) {
		t.Helper()
		w := request(s, "GET", "/web/drill-plan?group=g1"+query, "")
		if err := json.Unmarshal(w.Body.Bytes(), &view); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", query, w.Code, w.Body)
		}
		return view
	}
	if got := plan("&drill=lose-disk&node=n1&hold=4s"); got.Command != "smrctl drill run lose-disk g1 --node n1 --hold 4s --confmaster 10.0.0.1:7,10.0.0.2:7" || len(got.Problems) == 0 || !got.MayNode {
		t.Errorf("%+v", got)
	}
	if got := plan("&node='%3Breboot"); !strings.Contains(got.Command, `--node ''\'';reboot' `) {
		t.Errorf("%s", got.Command)
	}
	home := filepath.Dir(s.config.Drills)
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "cluster.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := plan(""); got.Command != "smrctl drill run kill-master g1 --dir '"+home+"'" || len(got.Kinds) < 10 {
		t.Errorf("%s", got.Command)
	}
	if m.looks != 0 {
		t.Error("the agents were asked although the group is not whole")
	}
	for _, query := range []string{"?group=g1&drill=earthquake", "?group=g1&hold=1h", "?group=g1&hold=x", "?group=g9"} {
		if w := request(s, "GET", "/web/drill-plan"+query, ""); w.Code != http.StatusBadRequest && w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}
