package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lockstep/internal/drill/plan"
	"lockstep/internal/drill/report"
	"lockstep/proto"
)

const (
	// maxReport bounds the report of a drill, in bytes; maxReports how many are listed, the newest.
	maxReport  = 4 << 20
	maxReports = 100
	// maxProgress bounds what is shown of what a drill has said, in bytes: the end.
	maxProgress = 32 << 10
	// agentsGood is how long what the agents said is shown to others, too.
	agentsGood = time.Second
)

func (s *Server) drills(*http.Request) (any, error) {
	list := []*report.Report{}
	answer := map[string]any{"directory": s.config.Drills != "", "drills": &list}
	if s.config.Drills == "" {
		return answer, nil
	}
	entries, err := os.ReadDir(s.config.Drills)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the drills (--drills): %w", err)
	}
	for _, entry := range slices.Backward(entries) { // their names begin with their times
		if len(list) == maxReports {
			break
		}
		content, err := s.report(entry.Name())
		if err != nil || content == nil {
			continue // another file, or one that is not finished
		}
		one := &report.Report{}
		if json.Unmarshal(content, one) == nil && one.ID == entry.Name() {
			list = append(list, one.Brief())
		}
	}
	return answer, nil
}

// report reads the report of a drill; nil if there is none.
func (s *Server) report(id string) ([]byte, error) {
	file, size, err := s.open(id, report.FileName)
	if file == nil {
		return nil, err
	}
	defer file.Close()
	if size > maxReport {
		return nil, nil
	}
	return io.ReadAll(io.LimitReader(file, maxReport))
}

// open opens a file of a drill and tells its size; nil if there is none, it lies outside or is no regular file.
func (s *Server) open(id, name string) (*os.File, int64, error) {
	root, err := os.OpenRoot(s.config.Drills)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	file, err := root.Open(filepath.Join(id, name))
	if err != nil {
		return nil, 0, nil
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		_ = file.Close() // nothing was read
		return nil, 0, err
	}
	return file, info.Size(), nil
}

func (s *Server) drill(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if s.config.Drills == "" || !isID(id) {
		return nil, refusef(http.StatusNotFound, "there is no drill %.100q", id)
	}
	content, err := s.report(id)
	if err != nil {
		return nil, fmt.Errorf("read the drill: %w", err)
	}
	if content == nil || !json.Valid(content) {
		return nil, refusef(http.StatusNotFound, "there is no report of drill %.100q", id)
	}
	return json.RawMessage(content), nil
}

// agentCache keeps what the agents of a group said for a moment, so that many browsers cost no more than one.
type agentCache struct {
	mu    sync.Mutex
	group string
	at    time.Time
	found *proto.DrillStateReply
}

// askAgents asks every agent of a group which drill has it.
func (s *Server) askAgents(ctx context.Context, group string) (*proto.DrillStateReply, error) {
	s.agents.mu.Lock() // others wait and take what this one finds
	defer s.agents.mu.Unlock()
	if s.agents.found != nil && s.agents.group == group && time.Since(s.agents.at) < agentsGood {
		return s.agents.found, nil
	}
	found, err := s.config.Masters.DrillState(ctx, &proto.DrillStateRequest{Group: group})
	if err != nil {
		return nil, err
	}
	s.agents.group, s.agents.found, s.agents.at = group, found, time.Now()
	return found, nil
}

// drillPlanView is a drill before somebody runs it.
type drillPlanView struct {
	Kinds    []plan.Kind `json:"kinds"`
	Drill    string      `json:"drill"`
	Victims  []string    `json:"victims"`
	Checks   []string    `json:"checks"`
	Steps    []string    `json:"steps"`
	Problems []string    `json:"problems"` // why it would be refused
	Command  string      `json:"command"`
	Where    string      `json:"where"` // the command is to be given
	MayNode  bool        `json:"may_node"`
}

// drillPlan says what a drill would do now. smrctl looks again before it does anything, and tries whether clients are let in, which only
// it can.
func (s *Server) drillPlan(r *http.Request) (any, error) {
	query := r.URL.Query()
	hold := plan.DefaultHold
	if text := query.Get("hold"); text != "" {
		var err error
		if hold, err = time.ParseDuration(text); err != nil {
			return nil, refusef(http.StatusBadRequest, "hold %.40q: use a time such as 8s", text)
		}
	}
	order := plan.Order{Drill: query.Get("drill"), Node: query.Get("node"), Hold: hold, Longest: plan.DefaultLongest, Clients: plan.DefaultClients}
	if order.Drill == "" {
		order.Drill = plan.Kinds[0].Name
	}
	if err := order.Check(); err != nil {
		return nil, refusef(http.StatusBadRequest, "%.300s", err.Error())
	}
	status, err := s.config.Masters.Status(r.Context(), &proto.StatusRequest{})
	if err != nil {
		return nil, err
	}
	group, err := s.group(r.Context(), query.Get("group"))
	if err != nil {
		return nil, err
	}
	order.Group = group.GetName()
	drill, problems := plan.Make(status, group, &order)
	if len(problems) == 0 {
		state, err := s.askAgents(r.Context(), group.GetName())
		if err != nil {
			return nil, err
		}
		var agents []plan.Agent
		for _, a := range state.GetAgents() {
			f := a.GetFaults()
			agents = append(agents, plan.Agent{Name: a.GetName(), Allowed: f.GetAllowed(), Drill: f.GetDrill(), By: f.GetBy(), Problem: a.GetProblem(), NoPause: f.GetNoPause(), NoKVNode: f.GetNoKvnode()})
		}
		problems = drill.Ask(agents)
	}
	target := plan.Find(order.Drill).Target
	view := drillPlanView{Kinds: plan.Kinds, Drill: order.Drill, Victims: append([]string{}, drill.Victims...), Checks: append([]string{}, drill.Checks...), Steps: drill.Steps,
		Problems: append([]string{}, problems...), MayNode: target == plan.ASlave || target == plan.NobodyElse}
	view.Command, view.Where = s.command(&order, status)
	return view, nil
}

// command is what runs a drill, and where.
func (s *Server) command(order *plan.Order, status *proto.ClusterStatus) (command, where string) {
	words := []string{"smrctl", "drill", "run", order.Drill, order.Group}
	if order.Node != "" {
		words = append(words, "--node", order.Node)
	}
	if order.Hold != plan.DefaultHold {
		words = append(words, "--hold", order.Hold.String())
	}
	if home := s.clusterDir(); home != "" {
		words = append(words, "--dir", home)
		where = "on the machine of the cluster: what is killed there only smrctl starts again"
	} else {
		var addrs []string
		for _, c := range status.GetConfmasters() {
			addrs = append(addrs, c.GetAddr())
		}
		words = append(words, "--confmaster", strings.Join(addrs, ","))
		where = "on a machine that reaches all nodes; with certificates, or a context, of the role admin where the cluster has them"
	}
	for i, word := range words {
		if strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./:,_-[]") != "" {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " "), where
}

// clusterDir is the directory of a cluster that smrctl up has started, "" of any other: it keeps its plan there, beside the drills.
func (s *Server) clusterDir() string {
	if s.config.Drills == "" {
		return ""
	}
	home := filepath.Dir(filepath.Clean(s.config.Drills))
	if info, err := os.Lstat(filepath.Join(home, "cluster.json")); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return home
}

// drillNowView is the drill that is under way.
type drillNowView struct {
	Drill    string        `json:"drill"` // id, "" if none has a process of the group
	By       string        `json:"by"`
	Agents   []agentView   `json:"agents"`
	Progress []report.Step `json:"progress"` // what it has said, where its directory can be read here
	Known    bool          `json:"known"`    // it can
}

type agentView struct {
	Name    string   `json:"name"`
	Problem string   `json:"problem"`
	Held    bool     `json:"held"`
	Faults  []string `json:"faults"` // beside the reservation
	LeftMs  uint32   `json:"left_ms"`
}

func (s *Server) drillNow(r *http.Request) (any, error) {
	group, err := s.group(r.Context(), r.URL.Query().Get("group"))
	if err != nil {
		return nil, err
	}
	state, err := s.askAgents(r.Context(), group.GetName())
	if err != nil {
		return nil, err
	}
	view := drillNowView{Agents: []agentView{}, Progress: []report.Step{}}
	for _, a := range state.GetAgents() {
		one := agentView{Name: a.GetName(), Problem: a.GetProblem(), Held: a.GetFaults().GetDrill() != "", Faults: []string{}, LeftMs: a.GetFaults().GetLeftMs()}
		for _, fault := range a.GetFaults().GetFaults() {
			if fault != "reserve" {
				one.Faults = append(one.Faults, fault)
			}
		}
		if one.Held {
			view.Drill, view.By = a.GetFaults().GetDrill(), a.GetFaults().GetBy()
		}
		view.Agents = append(view.Agents, one)
	}
	view.Progress, view.Known = s.progress(view.Drill)
	return view, nil
}

// progress reads what a drill has said.
func (s *Server) progress(id string) (steps []report.Step, known bool) {
	if s.config.Drills == "" || !isID(id) {
		return []report.Step{}, false
	}
	file, size, err := s.open(id, report.ProgressName)
	if file == nil || err != nil {
		return []report.Step{}, false // it is run from elsewhere
	}
	defer file.Close()
	from := max(0, size-maxProgress)
	content, err := io.ReadAll(io.NewSectionReader(file, from, maxProgress))
	if err != nil {
		return []report.Step{}, false
	}
	text := string(content)
	if from > 0 { // it begins within a line
		_, text, _ = strings.Cut(text, "\n")
	}
	return report.Progress(text), true
}

// abortDrill has a drill end, whoever runs it.
func (s *Server) abortDrill(w http.ResponseWriter, r *http.Request) (any, error) {
	var in struct {
		Group string `json:"group"`
		Drill string `json:"drill"` // id, as the browser saw it: another one that has begun meanwhile is left alone
	}
	if err := read(w, r, &in); err != nil {
		return nil, err
	}
	reply, err := s.config.Masters.EndDrill(r.Context(), &proto.EndDrillRequest{Group: in.Group, Drill: in.Drill})
	if err != nil {
		return nil, err
	}
	return &done{Text: reply.GetText()}, nil
}

// isID reports whether a word may name a run of a drill.
func isID(id string) bool {
	return id != "" && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == "" && !strings.HasPrefix(id, ".")
}
