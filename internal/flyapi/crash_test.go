//go:build failpoint

package flyapi_test

import (
	"fmt"
	"strings"
	"testing"
)

// points are the places at which a server is made to end: each write of the ledger, and each call of the provider.
func points() []string {
	return []string{
		"create", "started", "stop", "exit", "ended", "start", "update", "metadata", "destroy", "destroyed",
		"provider.create", "provider.destroy", "provider.signal",
	}
}

func TestAServerThatIsKilledAtAnyPointLosesNoMachineAndForgetsNone(t *testing.T) {
	t.Parallel()
	for _, point := range points() {
		for _, when := range []string{".before", ".after"} {
			for _, action := range []string{"1*kill", "1*error"} {
				if action == "1*error" && !strings.HasPrefix(point, "provider.") && point != "create" {
					continue // the other writes are all answered alike
				}
				t.Run(point+when+" "+action, func(t *testing.T) {
					t.Parallel()
					p := newProcess(t)
					p.hangs = true
					p.launch("flyapi." + point + when + "=" + action)
					tell(p)
				})
			}
		}
	}
}

func TestAServerThatIsKilledWhileALaunchFailsDestroysTheMachineLater(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"refused.before", "refused.after", "destroyed.before", "destroyed.after"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			p := newProcess(t)
			p.hangs = true
			p.launch("flyapi." + point + "=1*kill")
			if a := p.call("POST", machines, `{"name":"only","config":{"image":"unknown:1"}}`); a.status != 0 {
				t.Fatalf("got %d %s, want no answer of a server that is killed", a.status, a.body)
			}
			p.kill()
			p.launch("")
			p.eventually("the machine that could not be launched is destroyed", func() bool {
				list := string(p.insist("GET", machines+"?include_deleted=true", "", 200).body)
				return strings.Count(list, `"name":"only"`) == 1 && strings.Count(list, `"status":"launch_failed"`) == 1 &&
					strings.Contains(list, `"state":"destroyed"`)
			})
		})
	}
}

// insist makes a call until it is answered with one of the wanted statuses. A server that was killed is started again.
func (p *process) insist(method, path, body string, wanted ...int) *answer {
	p.t.Helper()
	var a *answer
	for range 100 {
		if p.base != "" {
			a = p.call(method, path, body)
			for _, status := range wanted {
				if a.status == status {
					return a
				}
			}
		}
		if p.base == "" || a.status == 0 {
			p.kill()
			p.launch("")
		}
	}
	p.t.Fatalf("%s %s: got %d %s at last, want one of %v", method, path, a.status, a.body, wanted)
	return nil
}

// reached waits for a state, across a kill of the server.
func (p *process) reached(id, state string) {
	p.t.Helper()
	p.insist("GET", machines+"/"+id+"/wait?timeout=5&state="+state, "", 200)
}

// begun waits until the program has begun so many times: a program that is stopped before it has begun counts nothing.
func (p *process) begun(times int) {
	p.t.Helper()
	p.eventually("the program begins", func() bool { return p.starts() >= times })
}

// tell lives a machine's life from its creation to its end, as a client does that asks again when it hears nothing.
func tell(p *process) {
	// A create that nobody answered may have made the machine: its name says so, or makes it.
	a := p.insist("POST", machines, `{"name":"only","config":{"image":"app:1"}}`, 200, 409)
	var id string
	if a.status == 200 {
		id = strings.Split(string(a.body), `"`)[3]
	} else {
		_, rest, _ := strings.Cut(a.text(), "machine ID ")
		id, _, _ = strings.Cut(rest, " ")
	}
	path := machines + "/" + id
	p.reached(id, "started")
	p.begun(1)
	p.insist("POST", path+"/metadata/a", `{"value":"b"}`, 204)
	p.insist("POST", path+"/stop", "", 200)
	p.reached(id, "stopped")
	p.insist("POST", path+"/start", "", 200, 412) // 412: it has been, and the answer was lost
	p.reached(id, "started")
	p.begun(2)
	p.insist("POST", path, `{"config":{"image":"app:2","metadata":{"a":"b"}}}`, 200, 412) // 412: it is under way, and the answer was lost
	p.reached(id, "started")
	if got := p.insist("GET", path, "", 200); !strings.Contains(string(got.body), `"image":"app:2"`) || !strings.Contains(string(got.body), `"a":"b"`) {
		p.t.Errorf("after the update: got %s, want what was acknowledged", got.body)
	}
	p.begun(3)
	// Three starts were asked for, and an update that was asked for twice is one more.
	if got := p.starts(); got > 4 {
		p.t.Errorf("the program was started %d times, want 3, or 4 when an update was repeated", got)
	}
	p.insist("DELETE", path+"?force=true", "", 200, 404)
	p.reached(id, "destroyed")
	provider, err := localProvider(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = provider.Close() }()
	if left := p.all(provider); len(left) != 0 {
		p.t.Errorf("left at the provider: %s", fmt.Sprint(left))
	}
}
