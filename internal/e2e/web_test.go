package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/redis/go-redis/v9"

	"lockstep/internal/drill/report"
	"lockstep/internal/local"
	"lockstep/internal/trust"
	"lockstep/proto"
)

// shotsDir names a directory in the environment: the test leaves pictures of the page there, for people to look at.
const shotsDir = "LOCKSTEP_WEB_SHOTS"

// hostileKey would be markup, if anything took it for that.
const hostileKey = `<img src=x onerror="document.title='taken over'"><script>document.title='taken over'</script>`

// browser is a tab of a headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // what the page should not have run into
}

// openBrowser starts a Chromium that ends with the test; without one the test is skipped.
func openBrowser(t *testing.T, more ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "headless-shell"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("SKIPPED: the web page was not tried in a browser: no Chromium is installed here (apt-get install chromium)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.IgnoreCertErrors,
		chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900), chromedp.WSURLReadTimeout(patience))
	options = append(options, more...)
	allocator, endAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, end := chromedp.NewContext(allocator)
	b := &browser{t: t, ctx: ctx}
	t.Cleanup(func() {
		chromedp.Cancel(ctx)
		end()
		endAllocator()
	})
	chromedp.ListenTarget(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.complain("exception: " + e.ExceptionDetails.Text)
		case *cdplog.EventEntryAdded:
			if e.Entry.Source == cdplog.SourceSecurity || e.Entry.Source == cdplog.SourceJavascript || strings.Contains(e.Entry.Text, "Content Security Policy") {
				b.complain(e.Entry.Text)
			}
		}
	})
	b.do(chromedp.Navigate("about:blank"))
	return b
}

func (b *browser) complain(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, text)
}

// do carries actions out, within the patience of the tests.
func (b *browser) do(actions ...chromedp.Action) {
	b.t.Helper()
	// The tab belongs to the first context that it is used with: time is bounded outside of it.
	done := make(chan error, 1)
	go func() { done <- chromedp.Run(b.ctx, actions...) }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-done:
		if err != nil {
			b.t.Fatal(err)
		}
	case <-timer.C:
		b.t.Fatalf("the browser did not get there within %v", patience)
	}
}

// truth waits until a JavaScript expression is true.
func (b *browser) truth(what, expression string) {
	b.t.Helper()
	eventually(b.t, what, func() error {
		var is bool
		var seen string
		b.do(chromedp.Evaluate("Boolean("+expression+")", &is))
		if !is {
			b.do(chromedp.Evaluate("document.querySelector('main').innerText.slice(0, 1500)", &seen))
			return fmt.Errorf("the page shows:\n%s", seen)
		}
		return nil
	})
}

// shows is a JavaScript expression for what an element shows.
func shows(selector string) string {
	return fmt.Sprintf("document.querySelector(%q)?.innerText", selector)
}

// shot takes a picture, if somebody wants to look at it.
func (b *browser) shot(name string, width, height int64, dark bool) {
	b.t.Helper()
	dir := os.Getenv(shotsDir)
	if dir == "" {
		return
	}
	theme := "light"
	if dark {
		theme = "dark"
	}
	var picture []byte
	b.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}),
		chromedp.EmulateViewport(width, height), chromedp.Evaluate("dispatchEvent(new Event('resize'))", nil), chromedp.FullScreenshot(&picture, 100))
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) click(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(selector, chromedp.ByQuery))
}

// view opens a part of the page.
func (b *browser) view(name string) {
	b.t.Helper()
	b.do(chromedp.Evaluate("location.hash = "+fmt.Sprintf("%q", "#"+name), nil))
	b.truth(name+" is shown", fmt.Sprintf("!document.getElementById('view-%s').hidden", name))
}

// The web page, in a real browser, on a real cluster with TLS. What could go wrong: it does not show what happens while it happens; what comes from
// clients is taken for markup; somebody changes something without a log-in, or nobody can with one; its own policy forbids what it
// needs; it goes on showing old figures when its configuration master is gone.
func TestWebPage(t *testing.T) {
	b := openBrowser(t)
	w := start(t, local.Options{TLS: true}, nil)
	ctx := context.Background()
	first, _ := w.master(t)
	survivor := w.others(first)[0]
	client := redis.NewClient(&redis.Options{Addr: w.addr(survivor), TLSConfig: w.clientTLS(t), ReadTimeout: patience, WriteTimeout: patience})
	defer client.Close()
	write := func() {
		t.Helper()
		for i := range 60 {
			if err := client.Set(ctx, fmt.Sprintf("key:%d", i), strings.Repeat("v", 300), 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write()
	w.writeReport(t)

	b.do(chromedp.Navigate(w.WebPages()[0]))
	b.truth("the master is shown", shows("#master")+" === "+fmt.Sprintf("%q", first))
	b.truth("the picture names every replica", fmt.Sprintf("%s.every((n) => document.querySelector('#picture').textContent.includes(n))", nodesOf(w)))
	b.truth("figures come", "document.querySelectorAll('#replicas tbody tr').length === 3 && document.querySelector('#link').textContent === 'live'")
	write()
	b.shot("topology-light", 1280, 900, false)
	b.shot("topology-dark", 1280, 900, true)
	b.shot("topology-narrow", 390, 844, false)
	b.view("history")
	b.shot("history-empty", 1280, 900, false)
	b.view("topology")

	// A fail-over, live.
	w.kill(t, local.KVNodeOf(first), local.ReplicatorOf(first))
	b.truth("the dead replica shows as down", fmt.Sprintf("[...document.querySelectorAll('#replicas tbody tr')].some((r) => r.innerText.includes(%q) && r.innerText.includes('down'))", first))
	b.shot("topology-failover", 1280, 900, false)
	b.view("history")
	second := w.masterIsNot(t, first)
	b.truth("the fail-over is told", fmt.Sprintf("[...document.querySelectorAll('.story.fail-over')].some((s) => s.innerText.includes(%q) && s.innerText.includes('established after'))", "Fail-over: "+first+" → "+second))
	b.truth("and explained", fmt.Sprintf("((s) => s.querySelector('details').open && s.innerText.includes('Seen by the configuration masters') && s.innerText.includes('Candidates') && s.innerText.includes('chosen'))(document.querySelector('.story.fail-over'))"))
	b.truth("events came as they happened", "document.querySelectorAll('#events li').length > 0")
	b.shot("history-light", 1280, 1000, false)
	b.shot("history-dark-narrow", 390, 844, true)
	w.startAgain(t, local.ReplicatorOf(first), local.KVNodeOf(first))
	w.healthy(t)

	// Drift.
	b.view("settings")
	b.truth("nothing differs yet", shows("#drift")+".includes('Every node has what is on record')")
	change := &proto.ChangeRequest{Group: w.Plan.Group, Change: &proto.ChangeRequest_Settings{Settings: &proto.ChangeSettings{By: "test", Settings: []*proto.Setting{{Kind: "config", Name: "slowlog-max-len", Value: "99"}}}}}
	if _, err := w.admin.Change(ctx, change); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node has the setting", func() error {
		if got := client.ConfigGet(ctx, "slowlog-max-len").Val(); got["slowlog-max-len"] != "99" {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	if err := client.ConfigSet(ctx, "slowlog-max-len", "5").Err(); err != nil {
		t.Fatal(err)
	}
	b.truth("drift is shown", fmt.Sprintf("((r) => r && r.innerText.includes(%q) && r.innerText.includes('slowlog-max-len') && r.innerText.includes('99'))(document.querySelector('#drift tr.differs'))", survivor))
	b.shot("settings-drift", 1280, 1000, false)

	w.looksAtLogAndDrills(t, b, client)
	w.changesByPage(t, b)
	w.drainsByPage(t, b)
	w.drillsByPage(t, b)
	w.losesItsMaster(t, b)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.problems) > 0 {
		t.Errorf("the page ran into problems:\n%s", strings.Join(b.problems, "\n"))
	}
}

func nodesOf(w *world) string {
	names, _ := json.Marshal(w.others()) // strings
	return string(names)
}

// writeReport leaves a report as smrctl drill does.
func (w *world) writeReport(t *testing.T) {
	t.Helper()
	ms := 180.0
	result := &report.Report{
		ID: "20260102T030405.000Z-kill-master", Drill: "kill-master", What: "kills the master", Proves: hostileKey, Group: w.Plan.Group, By: "somebody", Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Seconds: 9.5, Verdict: report.Passed, DetectionMs: &ms, ElectionMs: &ms, FirstWriteMs: &ms, PauseMs: 240, MendedMs: &ms, MasterBefore: "n1", MasterAfter: "n2", EpochBefore: 2, EpochAfter: 3,
		Writes: 1234, Reads: 2345, Keys: 8, Nodes: 3, Digests: "equal", FaultAt: 2e9, MendedAt: 4e9,
		Timeline: []report.Moment{{Stamp: 2e9, Who: "drill", Text: "killed n1"}, {Stamp: 3e9, Who: "confmaster", Name: "established", Text: "n2 leads"}},
	}
	for i := range 90 {
		result.WritesPerSecond = append(result.WritesPerSecond, 20+i%7)
	}
	dir := filepath.Join(w.DrillsDir(), result.ID)
	content, err := json.Marshal(result)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "report.json"), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// looksAtLogAndDrills: nobody is logged in; pages of the log turn, and what clients wrote is not shown.
func (w *world) looksAtLogAndDrills(t *testing.T, b *browser, client *redis.Client) {
	t.Helper()
	if err := client.Set(context.Background(), hostileKey, "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b.view("log")
	b.truth("frames are listed", "document.querySelectorAll('#log-list tbody tr').length === 25")
	b.truth("without what clients wrote", "document.querySelectorAll('#log-list .requests').length === 0 && "+shows("#log-note")+".includes('log in')")
	newest := "Number(document.getElementById('log-from').value)"
	var from float64
	b.do(chromedp.Evaluate(newest, &from))
	b.click("#log-older")
	b.truth("an older page is shown", fmt.Sprintf("%s < %.0f && document.querySelectorAll('#log-list tbody tr').length === 25", newest, from))
	b.click("#log-newer")
	b.truth("the page after it follows without a gap", fmt.Sprintf("%s === %.0f", newest, from))
	b.click("#log-first")
	b.truth("the oldest frame is an epoch's start", shows("#log-list tbody tr")+".includes('epoch-start')")
	b.shot("log-visitor", 1280, 900, true)

	b.view("drills")
	b.truth("the drill is listed", shows("#drill-list")+".includes('kill-master')")
	b.click("#drill-list button")
	b.truth("its report is shown, as text", fmt.Sprintf("%s.includes(%q) && document.querySelectorAll('#drill-report svg rect.bar').length === 90 && document.querySelectorAll('main img').length === 0", shows("#drill-report"), hostileKey))
	b.shot("drills", 1280, 1000, false)
}

// changesByPage: without a log-in a change is refused by the page; with one the contents of the log show, and a switch-over is done and on record.
func (w *world) changesByPage(t *testing.T, b *browser) {
	t.Helper()
	b.view("topology")
	b.click("#switch")
	b.truth("the page asks for a log-in", "document.getElementById('dialog').open && "+shows("#dialog-title")+" === 'Log in'")
	b.shot("login", 1280, 900, false)
	b.do(chromedp.KeyEvent("\x1b"))
	b.truth("Escape closes it", "!document.getElementById('dialog').open")

	reply, err := w.admin.OpenWeb(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate(reply.GetPage()))
	b.truth("the page is there", shows("#account")+" === 'Log in'")
	b.click("#account")
	b.truth("the page asks for a code", "document.getElementById('dialog').open")
	b.do(chromedp.Navigate(reply.GetPage() + "#login=" + reply.GetCode())) // the link in the same tab, while that is asked
	b.truth("somebody is logged in", shows("#account")+" === 'Log out admin/admin'")
	b.truth("a code is not asked for any more", "!document.getElementById('dialog').open")
	b.truth("the code is not in the address any more", "location.hash === '#topology'")
	b.truth("scripts cannot read the cookie", "document.cookie === ''")
	b.view("log")
	b.truth("what clients wrote is shown, as text", fmt.Sprintf("(document.getElementById('log-last').disabled || document.getElementById('log-last').click(), %s.includes('<img src=x onerror=') && document.querySelectorAll('main img, main script').length === 0 && document.title === 'Lockstep: log')", shows("#log-list")))
	b.shot("log-operator", 1280, 900, false)

	before, _ := w.master(t)
	b.view("topology")
	b.truth("the state is there", shows("#master")+" === "+fmt.Sprintf("%q", before))
	to := w.others(before)[1]
	b.click("#switch")
	b.do(chromedp.SetValue("#switch-to", to, chromedp.ByQuery))
	b.shot("switchover", 1280, 900, true)
	b.click("#dialog-ok")
	b.truth("the new master is shown", shows("#master")+" === "+fmt.Sprintf("%q", to))
	if after, _ := w.master(t); after != to {
		t.Errorf("%s leads, and not %s", after, to)
	}
	w.audited(t, "switch over to "+to)
}

// audited: what was done at the page is on record under the name of who did it.
func (w *world) audited(t *testing.T, what string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q is in the audit log", what), func() error { // it goes there when it is done
		entries, err := w.admin.WorkLog(context.Background(), w.Plan.Group, 100)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.Contains(e.GetReason(), "audit: admin/admin from 127.0.0.1 at the web page of c") && strings.Contains(e.GetReason(), what) {
				return nil
			}
		}
		return errors.New("it is not there")
	})
}

// drainsByPage: a replica is drained and taken back, with a look at what will be done before. Of two operators at once the later one is told, and nothing
// of his is done.
func (w *world) drainsByPage(t *testing.T, b *browser) {
	t.Helper()
	master, _ := w.master(t)
	node := w.others(master)[0]
	button := fmt.Sprintf("[data-drain=%q]", node)
	look := func() {
		t.Helper()
		b.truth("the button is there", fmt.Sprintf("document.querySelector('[data-drain=%q]')", node))
		b.click(button)
		b.truth("the dialog is open", "document.getElementById('dialog').open")
		b.click("#dialog-ok")
		b.truth("it says what will be done", "document.querySelectorAll('#change-steps li').length > 0")
	}
	b.view("topology")
	look()
	b.shot("drain", 1280, 900, false)
	bytes, patience := uint64(1<<30), uint32(10_000)
	if _, err := w.admin.Change(context.Background(), &proto.ChangeRequest{Group: w.Plan.Group, Change: &proto.ChangeRequest_SetPolicy{SetPolicy: &proto.Policy{SlowBytes: &bytes, SlowForMs: &patience}}}); err != nil {
		t.Fatal(err)
	}
	b.click("#dialog-ok")
	b.truth("the later one is told", "!document.getElementById('dialog-problem').hidden && "+shows("#dialog-problem")+".includes('look at it again')")
	b.shot("drain-refused", 1280, 900, true)
	if group, err := w.group(); err != nil || group.GetPlan() != "" {
		t.Errorf("something is done: %v, %v", group.GetPlan(), err)
	}
	b.click("#dialog-cancel")
	look()
	b.click("#dialog-ok")
	b.truth("it is drained", fmt.Sprintf("[...document.querySelectorAll('#replicas tbody tr')].some((r) => r.innerText.includes(%q) && r.innerText.includes('drained') && r.innerText.includes('Take back'))", node))
	w.audited(t, "drain replica "+node)
	b.shot("drained", 1280, 900, false)
	look()
	b.click("#dialog-ok")
	b.truth("it is back", fmt.Sprintf("[...document.querySelectorAll('#replicas tbody tr')].some((r) => r.innerText.includes(%q) && r.innerText.includes('Drain…') && r.innerText.includes('slave'))", node))
	w.healthy(t)

	b.do(chromedp.Evaluate("document.getElementById('policies').click()", nil)) // it lies below the header when the table is scrolled to
	b.truth("the policies are those of the group", "document.getElementById('policy-slow_bytes')?.value === '1073741824'")
	b.shot("policies", 1280, 900, false)
	b.do(chromedp.SetValue("#policy-slow_for_ms", "20000", chromedp.ByQuery))
	b.click("#dialog-ok")
	b.truth("it says what will be done", "document.querySelectorAll('#change-steps li').length > 0")
	b.click("#dialog-ok")
	eventually(t, "the policy is changed", func() error {
		group, err := w.group()
		if err == nil && group.GetPolicy().GetSlowForMs() != 20_000 {
			err = fmt.Errorf("slow for %d ms", group.GetPolicy().GetSlowForMs())
		}
		return err
	})
	w.audited(t, "change the policy")
}

// drillsByPage: the page says what a drill would do and with which command; that command is given, the page follows it and aborts it.
func (w *world) drillsByPage(t *testing.T, b *browser) {
	t.Helper()
	b.view("drills")
	b.click("#drill-plan")
	b.truth("a drill is planned", shows("#plan-verdict")+" === 'nothing speaks against it'")
	b.do(chromedp.SetValue("#plan-drill", "isolate-master", chromedp.ByQuery), chromedp.Evaluate("document.getElementById('plan-drill').dispatchEvent(new Event('change'))", nil))
	var command string
	b.truth("the command is shown", shows("#plan-command")+"?.includes('smrctl drill run isolate-master')")
	b.shot("drill-plan", 1280, 1300, false)
	b.do(chromedp.Evaluate(shows("#plan-command"), &command))
	b.click("#dialog-cancel")

	ctx, cancel := context.WithTimeout(context.Background(), drillPatience)
	defer cancel()
	words := strings.Fields(command)
	if want := []string{"smrctl", "drill", "run", "isolate-master", w.Plan.Group, "--dir", w.Dir}; !slices.Equal(words, want) {
		t.Fatalf("the command is %q, want %q", words, want)
	}
	run := w.smrctlOf(ctx, append(words[1:len(words)-2], "--yes", "--hold", "60s", "--longest", "2m")...)
	var said bytes.Buffer
	run.Stdout, run.Stderr = &said, &said
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- run.Wait() }()
	b.truth("the drill is followed", "!document.getElementById('drill-now').hidden && "+shows("#drill-now")+".includes('Without an answer, as is who was cut off') && document.querySelectorAll('#drill-steps li').length > 2")
	b.shot("drill-now", 1280, 900, false)
	b.click("#drill-abort")
	b.truth("the page asks", "document.getElementById('dialog').open && "+shows("#dialog-title")+" === 'Abort the drill'")
	b.click("#dialog-ok")
	if err := <-ended; run.ProcessState.ExitCode() != 3 || !strings.Contains(said.String(), "ended by admin/admin from 127.0.0.1 at the web page of c") {
		t.Errorf("the drill that was aborted: %v\n%s", err, said.String())
	}
	b.truth("it is over, and listed", "document.getElementById('drill-now').hidden && "+shows("#drill-list")+".includes('aborted')")
	b.shot("drills-aborted", 1280, 900, true)
	w.audited(t, "end drill ")
	w.healthy(t)
}

// losesItsMaster: the configuration master that shows the page dies, and comes back.
func (w *world) losesItsMaster(t *testing.T, b *browser) {
	t.Helper()
	var self float64
	b.do(chromedp.Evaluate("now.self", &self))
	name := fmt.Sprintf("c%.0f", self)
	w.signal(t, syscall.SIGKILL, name)
	<-w.Ended(name)
	b.truth("the page says that it lost the connection", "!document.getElementById('lost').hidden && "+shows("#lost")+".includes('is lost; trying again') && document.querySelectorAll('#lost a').length === 2")
	b.shot("connection-lost", 1280, 900, false)
	w.startAgain(t, name)
	b.truth("it is back by itself", "document.getElementById('lost').hidden && document.querySelector('#link').textContent === 'live'")
	b.truth("and nobody is logged in any more", shows("#account")+" === 'Log in'")
}

// A browser that has a certificate in its own store logs in with it. What could go wrong: the page (--http-tls mutual) does not ask for it, takes it for
// somebody else's, or gives it more than its role; a browser without one gets in.
func TestWebPageWithTheBrowsersCertificate(t *testing.T) {
	for _, tool := range []string{"certutil", "pk12util", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: logging in at the web page with a browser's own certificate was not tried: %s is not installed here (apt-get install libnss3-tools openssl)", tool)
		}
	}
	w := start(t, local.Options{TLS: true}, map[local.Kind][]string{local.KindConfmaster: {"--http-tls", "mutual"}})
	page := w.WebPages()[0]
	home, profile := t.TempDir(), t.TempDir()
	olga, err := trust.Issue(w.TLSDir(), home, "olga", trust.Request{Cluster: w.Plan.Cluster, Roles: []trust.Role{trust.Operator}, Name: "olga", Hosts: []string{"localhost"}, Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(home, ".pki", "nssdb")
	if err := os.MkdirAll(store, 0o700); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(home, "olga.p12")
	for _, words := range [][]string{
		{"openssl", "pkcs12", "-export", "-in", olga.Cert, "-inkey", olga.Key, "-out", bundle, "-passout", "pass:", "-name", "olga"},
		{"certutil", "-N", "-d", "sql:" + store, "--empty-password"},
		{"pk12util", "-i", bundle, "-d", "sql:" + store, "-W", ""},
	} {
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", words, err, out)
		}
	}
	// What the policy AutoSelectCertificateForUrls sets for all users of a machine, in this profile: nobody is there to be asked.
	preferences := map[string]any{"profile": map[string]any{"content_settings": map[string]any{"exceptions": map[string]any{"auto_select_certificate": map[string]any{
		strings.TrimSuffix(page, "/") + ",*": map[string]any{"setting": map[string]any{"filters": []any{map[string]any{}}}}}}}}}
	content, err := json.Marshal(preferences)
	if err == nil {
		err = os.MkdirAll(filepath.Join(profile, "Default"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(profile, "Default", "Preferences"), content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	stranger := openBrowser(t)
	if err := chromedp.Run(stranger.ctx, chromedp.Navigate(page)); err == nil {
		t.Error("a browser without a certificate gets the page")
	}
	b := openBrowser(t, chromedp.Env("HOME="+home), chromedp.UserDataDir(profile))
	b.do(chromedp.Navigate(page))
	b.truth("the page is there", shows("#link")+" === 'live'")
	b.click("#account")
	b.truth("it knows whose certificate the browser shows", shows("#dialog-body")+".includes('log in as operator/olga')")
	b.shot("login-certificate", 1280, 900, false)
	b.click("#dialog-body button")
	b.truth("olga is logged in", shows("#account")+" === 'Log out operator/olga'")
	first, _ := w.master(t)
	to := w.others(first)[0]
	b.click("#switch")
	b.do(chromedp.SetValue("#switch-to", to, chromedp.ByQuery))
	b.click("#dialog-ok")
	b.truth("what an operator may do is done", shows("#master")+" === "+fmt.Sprintf("%q", to))
	var answer string
	b.do(chromedp.Evaluate(`tell("/web/settings", {group: groupName, version: 0, forget: false, settings: [{name: "requirepass", value: "x"}]}).then(() => "done", (e) => e.message)`, &answer,
		func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	if !strings.Contains(answer, "it needs the role admin") {
		t.Errorf("what only an admin may do: %s", answer)
	}
}
