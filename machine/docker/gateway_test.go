package docker_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine/docker"
)

func TestTheGatewayIsAnAddressThatThisComputerHasOrWillHave(t *testing.T) {
	t.Parallel()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const nobodys = "192.0.2.1" // reserved for documentation
	for what, c := range map[string]struct {
		gateway, engine, security string
		words                     []string // of the refusal; nil: none
	}{
		"an address that is there":                   {"127.0.0.1", "another", "", nil},
		"one that comes with the first container":    {nobodys, name, "name=seccomp", nil},
		"that of another computer":                   {nobodys, "another-" + name, "", []string{nobodys, "not this one"}},
		"that of a network within a rootless engine": {nobodys, name, "name=rootless", []string{"rootless", "not in"}},
	} {
		f := newFaulty(t, nil)
		f.set(
			rule{method: "GET", path: "/networks/none", times: -1, answer: says(200, fmt.Sprintf(`{"Name":"none","Driver":"bridge","IPAM":{"Config":[{"Subnet":"0.0.0.0/0","Gateway":%q}]}}`, c.gateway))},
			rule{method: "GET", path: "/info", times: -1, answer: says(200, fmt.Sprintf(`{"Name":%q,"SecurityOptions":[%q]}`, c.engine, c.security))},
		)
		addr, err := f.provider(t, nil).Gateway(t.Context())
		if c.words != nil {
			wantFault(t, "Gateway at "+what, err, fault.Unsupported, c.words...)
		} else if err != nil || addr.String() != c.gateway {
			t.Errorf("Gateway at %s: got %v and error %v, want %s", what, addr, err, c.gateway)
		}
	}
	p := docker.New(docker.Program{}, &docker.Options{Host: "tcp://127.0.0.1:1"})
	_, err = p.Gateway(t.Context())
	wantFault(t, "Gateway of an engine that may be elsewhere", err, fault.Unsupported, "another computer")
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
