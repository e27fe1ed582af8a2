package fly_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/machine/fly"
)

const (
	app   = "dayfly-tests"
	token = "FlyV1 fm2_secretsecret,fm2_alsosecret"
)

// cloud is Fly as this package knows it: its machines, how they live, and how it fails when it is told to. It is as
// strict as the documentation and refuses what a careless client would send.
type cloud struct {
	t     *testing.T
	boot  time.Duration // from created to started
	end   time.Duration // from destroying to destroyed
	shown time.Duration // how long what was destroyed is still shown

	mu       sync.Mutex
	serial   int
	machines []*box // oldest first, destroyed ones included
	rules    []*rule
	asked    []string         // "create", "get 3d8d…", in order
	askedAt  []time.Time      //
	bodies   []map[string]any // of creates
}

// box is one machine.
type box struct {
	id, name, region string
	config           map[string]any
	state            string
	created          time.Time
	events           []map[string]any // newest first
	timers           []*time.Timer
	destroyed        time.Time
	lease            string // nonce
}

// rule is one way to fail: what it does to calls of an action, for some times.
type rule struct {
	action string
	times  int // -1: for ever
	fault  failure
}

// failure answers a call in the cloud's place. carryOut does what the call asks for and answers that to w.
type failure func(w http.ResponseWriter, r *http.Request, carryOut func(http.ResponseWriter))

func newCloud(t *testing.T) *cloud {
	return &cloud{t: t, boot: 5 * time.Millisecond, end: 5 * time.Millisecond, shown: time.Hour}
}

// serve serves the cloud on a real socket.
func (c *cloud) serve() *httptest.Server {
	s := httptest.NewServer(c)
	c.t.Cleanup(s.Close)
	return s
}

// provider returns a provider of the cloud over a real socket.
func (c *cloud) provider() *fly.Provider {
	return fly.New(app, token, &fly.Options{URL: c.serve().URL, Image: "debian:12", Rate: -1})
}

// fail makes the next calls of an action fail, for ever if times is -1.
func (c *cloud) fail(action string, times int, f failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules = append(c.rules, &rule{action, times, f})
}

// heal ends all failing.
func (c *cloud) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules = nil
}

// count returns how often an action was asked for.
func (c *cloud) count(action string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, asked := range c.asked {
		if asked == action || strings.HasPrefix(asked, action+" ") {
			n++
		}
	}
	return n
}

// times returns when each request was made, all of them or those of one action.
func (c *cloud) times(action string) (times []time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, asked := range c.asked {
		if action == "" || asked == action {
			times = append(times, c.askedAt[i])
		}
	}
	return times
}

// created returns the body of a create.
func (c *cloud) created(i int) map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bodies[i]
}

// living returns the machines that are not destroyed.
func (c *cloud) living() []*box {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(func(yield func(*box) bool) {
		for _, b := range c.machines {
			if b.state != "destroyed" && !yield(b) {
				return
			}
		}
	})
}

// change lets a test do something to the only machine of a name.
func (c *cloud) change(name string, do func(b *box)) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.machines {
		if b.name == name && b.state != "destroyed" {
			do(b)
			return
		}
	}
	c.t.Fatalf("the cloud has no machine %s", name)
}

// add puts a machine there that somebody else has made.
func (c *cloud) add(name string, metadata map[string]any) *box {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.make(name, "ams", map[string]any{"image": "debian:12", "metadata": metadata, "init": map[string]any{"cmd": []any{"stay"}}})
	b.state = "started"
	return b
}

// ServeHTTP answers one call.
func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	action, id := c.route(r)
	body, err := io.ReadAll(r.Body) // what is carried out late has it all the same
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	c.mu.Lock()
	c.asked, c.askedAt = append(c.asked, strings.TrimSpace(action+" "+id)), append(c.askedAt, time.Now())
	var broken failure
	for _, rule := range c.rules {
		if rule.action == action && rule.times != 0 {
			rule.times--
			broken = rule.fault
			break
		}
	}
	c.mu.Unlock()
	w.Header().Set("Fly-Request-Id", "01JREQUEST")
	carryOut := func(w http.ResponseWriter) { c.answer(w, r, action, id) }
	if broken != nil {
		broken(w, r, carryOut)
		return
	}
	carryOut(w)
}

// route returns what a request asks for.
func (c *cloud) route(r *http.Request) (action, id string) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/apps/"), "/")
	if len(parts) < 2 || parts[0] != app || parts[1] != "machines" {
		return "unknown", ""
	}
	switch key := fmt.Sprint(len(parts), r.Method); key {
	case "2POST":
		return "create", ""
	case "2GET":
		return "list", ""
	case "3GET":
		return "get", parts[2]
	case "3DELETE":
		return "destroy", parts[2]
	case "4GET", "4POST":
		return parts[3], parts[2]
	}
	return "unknown", ""
}

func (c *cloud) answer(w http.ResponseWriter, r *http.Request, action, id string) {
	if got := r.Header.Get("Authorization"); got != token {
		complain(w, 401, "Authenticate: token validation error")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if action == "create" {
		c.create(w, r)
		return
	}
	if action == "list" {
		c.list(w, r.URL.Query())
		return
	}
	i := slices.IndexFunc(c.machines, func(b *box) bool { return b.id == id })
	if i < 0 || c.machines[i].state == "destroyed" && time.Since(c.machines[i].destroyed) > c.shown {
		complain(w, 404, "machine not found")
		return
	}
	b := c.machines[i]
	switch action {
	case "get":
		reply(w, 200, b.show())
	case "destroy":
		c.destroy(w, r, b)
	case "wait":
		c.wait(w, r, b)
	case "exec":
		c.exec(w, r, b)
	case "signal", "suspend", "start":
		c.steer(w, r, action, b)
	default:
		complain(w, 404, "page not found")
	}
}

func (c *cloud) create(w http.ResponseWriter, r *http.Request) {
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		complain(w, 400, "invalid request: "+err.Error())
		return
	}
	c.bodies = append(c.bodies, body)
	config, _ := body["config"].(map[string]any)
	name, _ := body["name"].(string)
	region, _ := body["region"].(string)
	if config == nil || config["image"] == nil || config["image"] == "" {
		complain(w, 422, "invalid_argument: config.image is required")
		return
	}
	// What a machine of Dayfly's must have; the cloud would do something else without being asked.
	if policy, _ := config["restart"].(map[string]any); policy["policy"] != "no" {
		c.t.Errorf("a create with restart %v, want the policy no", config["restart"])
	}
	if auto, said := config["auto_destroy"].(bool); !said || auto {
		c.t.Errorf("a create with auto_destroy %v, want false", config["auto_destroy"])
	}
	for _, b := range c.machines {
		if b.name == name && b.state != "destroyed" {
			complain(w, 409, fmt.Sprintf("already_exists: unique machine name violation, machine ID %s already exists with name %q", b.id, name))
			return
		}
	}
	if region == "" || strings.Contains(region, ",") {
		region = "ams"
	}
	b := c.make(name, region, config)
	b.timers = append(b.timers, c.later(c.boot, func() { c.start(b) }))
	reply(w, 200, b.show())
}

func (c *cloud) make(name, region string, config map[string]any) *box {
	c.serial++
	b := &box{id: fmt.Sprintf("e%013x", 0x2865000000+c.serial), name: name, region: region, config: config, state: "created", created: time.Now()}
	b.event("launch", "created", nil)
	c.machines = append(c.machines, b)
	return b
}

// later does something under the cloud's lock.
func (c *cloud) later(after time.Duration, do func()) *time.Timer {
	return time.AfterFunc(after, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		do()
	})
}

// start starts what runs in a machine: the agent, which ends at its lifetime; a program that exits with CODE; or one that
// stays.
func (c *cloud) start(b *box) {
	if b.state != "created" {
		return
	}
	b.state = "started"
	b.event("start", "started", nil)
	argv := b.argv()
	switch {
	case len(argv) == 4 && argv[0] == fly.DefaultAgent && argv[1] == "run" && argv[2] == "--lifetime":
		lifetime, err := time.ParseDuration(argv[3])
		if err != nil {
			c.t.Errorf("an agent with %q, want a lifetime", argv)
		}
		b.timers = append(b.timers, c.later(lifetime, func() { c.exit(b, 124) }))
	case len(argv) == 1 && argv[0] == "exit":
		code, err := strconv.Atoi(b.env()["CODE"])
		if err != nil {
			code = 2
		}
		c.exit(b, code)
	case len(argv) == 0 || argv[0] == "stay":
	default:
		c.exit(b, 127)
	}
}

// argv returns what runs in the machine.
func (b *box) argv() (argv []string) {
	sets := []any{b.config["init"]}
	if processes, ok := b.config["processes"].([]any); ok {
		sets = append(sets, processes...)
	}
	for _, set := range sets {
		first, _ := set.(map[string]any)
		for _, key := range []string{"exec", "entrypoint", "cmd"} {
			words, _ := first[key].([]any)
			for _, word := range words {
				argv = append(argv, word.(string))
			}
		}
	}
	return argv
}

func (b *box) env() map[string]string {
	env := map[string]string{}
	set, _ := b.config["env"].(map[string]any)
	for key, value := range set {
		env[key] = value.(string)
	}
	return env
}

// exit ends what runs in a machine by itself. A code of 0 is left out of the event, as Fly does.
func (c *cloud) exit(b *box, code int) {
	if b.state != "started" {
		return
	}
	b.state = "stopped"
	how := map[string]any{
		"exited_at": time.Now().UnixMilli(), "guest_signal": -1, "signal": -1, "oom_killed": false, "requested_stop": false, "restarting": false,
	}
	if code != 0 {
		how["exit_code"] = code
	}
	b.event("exit", "stopped", map[string]any{"exit_event": how})
}

func (b *box) event(what, status string, request any) {
	b.events = slices.Insert(b.events, 0, map[string]any{
		"id": fmt.Sprint("01EVENT", len(b.events)), "type": what, "status": status, "source": "flyd", "timestamp": time.Now().UnixMilli(), "request": request,
	})
}

// running returns the machine of an id if something runs in it.
func (c *cloud) running(id string) *box {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.machines {
		if b.id == id && b.runs() {
			return b
		}
	}
	return nil
}

func (b *box) runs() bool { return b.state == "started" || b.state == "suspended" }

// show returns the machine as the API does.
func (b *box) show() map[string]any {
	m := map[string]any{
		"id": b.id, "name": b.name, "state": b.state, "region": b.region, "instance_id": "01JVERSION", "private_ip": "fdaa::3",
		"created_at": b.created.UTC().Format(time.RFC3339Nano), "config": b.config, "host_status": "ok", "events": slices.Clone(b.events),
		"image_ref": map[string]any{"registry": "registry-1.docker.io", "repository": "library/debian", "tag": "12", "digest": "sha256:0123"},
	}
	return m
}

func (c *cloud) list(w http.ResponseWriter, query url.Values) {
	var found []map[string]any
	for _, b := range c.machines {
		metadata, _ := b.config["metadata"].(map[string]any)
		fits := b.state != "destroyed"
		for key, values := range query {
			if key, ok := strings.CutPrefix(key, "metadata."); ok {
				for _, value := range values {
					fits = fits && metadata[key] == value
				}
			}
		}
		if fits {
			found = append(found, b.show())
		}
	}
	limit, err := strconv.Atoi(query.Get("limit"))
	if query.Has("limit") && (err != nil || limit < 1 || limit > 1000) {
		complain(w, 400, "invalid_argument: limit")
		return
	}
	from, _ := strconv.Atoi(query.Get("cursor"))
	if limit > 0 {
		found = found[min(from, len(found)):]
		if len(found) > limit {
			found = found[:limit]
			w.Header().Set("Fly-Next-Cursor", strconv.Itoa(from+limit))
		}
	}
	if found == nil {
		found = []map[string]any{}
	}
	reply(w, 200, found)
}

func (c *cloud) destroy(w http.ResponseWriter, r *http.Request, b *box) {
	switch {
	case b.lease != "" && r.Header.Get("Fly-Machine-Lease-Nonce") != b.lease:
		complain(w, 409, "machine ID "+b.id+" lease currently held by somebody@example.com, expires at 2026-01-01T00:00:00Z")
		return
	case b.runs() && r.URL.Query().Get("force") != "true":
		complain(w, 412, "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created")
		return
	case b.state == "destroyed":
		complain(w, 404, "not_found: machine not found")
		return
	}
	for _, timer := range b.timers {
		timer.Stop()
	}
	b.state = "destroying"
	b.event("destroy", "destroying", nil)
	c.later(c.end, func() {
		b.state, b.destroyed = "destroyed", time.Now()
		b.event("destroy", "destroyed", nil)
	})
	reply(w, 200, map[string]any{"ok": true})
}

// wait answers as soon as it is known whether the state was reached; c.mu is held and given back meanwhile.
func (c *cloud) wait(w http.ResponseWriter, r *http.Request, b *box) {
	seconds, err := strconv.Atoi(r.URL.Query().Get("timeout"))
	if err != nil || seconds < 1 || seconds > 60 {
		complain(w, 400, "invalid_argument: invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]")
		return
	}
	want := r.URL.Query().Get("state")
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Duration(seconds) * time.Second); b.state != want; {
		if time.Now().After(deadline) || r.Context().Err() != nil {
			complain(w, 408, "deadline_exceeded: machine failed to reach desired state, "+want+", currently "+b.state)
			return
		}
		c.mu.Unlock()
		select {
		case <-tick.C:
		case <-r.Context().Done():
		}
		c.mu.Lock()
	}
	reply(w, 200, map[string]any{"ok": true, "state": b.state})
}

// exec plays a shell that knows echo, cat, false and env.
func (c *cloud) exec(w http.ResponseWriter, r *http.Request, b *box) {
	var body struct {
		Command []string `json:"command"`
		Stdin   string   `json:"stdin"`
		Timeout int      `json:"timeout"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.Command) == 0 || body.Timeout < 1 {
		complain(w, 400, "invalid_argument: exec")
		return
	}
	if !b.runs() {
		complain(w, 412, "failed_precondition: machine not running")
		return
	}
	out := map[string]any{}
	switch body.Command[0] {
	case "echo":
		out["stdout"] = strings.Join(body.Command[1:], " ") + "\n"
	case "cat":
		out["stdout"] = body.Stdin
	case "env", "sh":
		out["stdout"] = strings.Join(body.Command, " ")
	case "false":
		out["exit_code"], out["stderr"] = 1, "no\n"
	case "killed":
		out["exit_signal"] = 9
	default:
		out["exit_code"], out["stderr"] = 127, "not found\n"
	}
	reply(w, 200, out)
}

func (c *cloud) steer(w http.ResponseWriter, r *http.Request, action string, b *box) {
	switch {
	case action == "start" && (b.state == "suspended" || b.state == "stopped"):
		if b.state == "stopped" {
			c.t.Errorf("machine %s was started again, want what has exited left as it is", b.name)
		}
		b.state = "started"
	case !b.runs():
		complain(w, 412, "failed_precondition: unable to "+action+" machine from current state: '"+b.state+"'")
		return
	case action == "suspend":
		b.state = "suspended"
	case action == "signal":
		var body struct {
			Signal string `json:"signal"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Signal == "" {
			complain(w, 400, "invalid_argument: signal")
			return
		}
		b.event("signal", body.Signal, nil)
	}
	reply(w, 200, map[string]any{"ok": true})
}

// reply answers with JSON.
func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// complain answers as Fly refuses.
func complain(w http.ResponseWriter, status int, text string) {
	reply(w, status, map[string]any{"error": text})
}

// refuse returns a fault that does nothing and answers this, with headers in pairs.
func refuse(status int, body string, headers ...string) failure {
	return func(w http.ResponseWriter, _ *http.Request, _ func(http.ResponseWriter)) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// refuseWith is refuse with a body in Fly's form.
func refuseWith(status int, text string, headers ...string) failure {
	body, _ := json.Marshal(map[string]any{"error": text})
	return refuse(status, string(body), headers...)
}

// after returns a fault that carries the call out and then answers something else.
func after(f failure) failure {
	return func(w http.ResponseWriter, r *http.Request, carryOut func(http.ResponseWriter)) {
		carryOut(httptest.NewRecorder())
		f(w, r, carryOut)
	}
}

// hangUp cuts the connection.
func hangUp(http.ResponseWriter, *http.Request, func(http.ResponseWriter)) {
	panic(http.ErrAbortHandler)
}

// cut sends the first half of the answer.
func cut(w http.ResponseWriter, _ *http.Request, carryOut func(http.ResponseWriter)) {
	whole := httptest.NewRecorder()
	carryOut(whole)
	w.Header().Set("Content-Length", strconv.Itoa(whole.Body.Len()))
	w.WriteHeader(whole.Code)
	_, _ = w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
	panic(http.ErrAbortHandler)
}

// edit sends the answer with some changes.
func edit[T any](change func(T) T) failure {
	return func(w http.ResponseWriter, _ *http.Request, carryOut func(http.ResponseWriter)) {
		whole := httptest.NewRecorder()
		carryOut(whole)
		var body T
		if whole.Code != 200 || json.Unmarshal(whole.Body.Bytes(), &body) != nil {
			w.WriteHeader(whole.Code)
			_, _ = w.Write(whole.Body.Bytes())
			return
		}
		maps.Copy(w.Header(), whole.Header())
		reply(w, 200, change(body))
	}
}

// raw returns the bytes of a file in a create's body.
func raw(text any) string {
	data, err := base64.StdEncoding.DecodeString(fmt.Sprint(text))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// inside carries requests to the cloud without a socket, so that they can be made in a bubble of testing/synctest.
type inside struct{ cloud *cloud }

func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	return insideOf{i.cloud}.RoundTrip(r)
}

// insideOf is inside for any handler.
type insideOf struct{ handler http.Handler }

func (i insideOf) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	done := make(chan *http.Response, 1)
	go func() {
		recorder := httptest.NewRecorder()
		i.handler.ServeHTTP(recorder, r)
		done <- recorder.Result()
	}()
	select {
	case response := <-done:
		return response, nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// counter counts answers of a status.
type counter struct {
	next   http.Handler
	status int

	mu sync.Mutex
	n  int
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	whole := httptest.NewRecorder()
	c.next.ServeHTTP(whole, r)
	if whole.Code == c.status {
		c.mu.Lock()
		c.n++
		c.mu.Unlock()
	}
	maps.Copy(w.Header(), whole.Header())
	w.WriteHeader(whole.Code)
	_, _ = w.Write(whole.Body.Bytes())
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}
