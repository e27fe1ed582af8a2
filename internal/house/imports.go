package house

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

func importRules() []Rule {
	return []Rule{{
		Name: "ImportsPointOneWay",
		Why: "a part that knows only what is below it can be understood, tested and replaced alone. From above to below:\n" +
			"cmd, internal/cli, internal/app, server, internal/*, the root, internal/wire, machine and blob, fault",
		Mend:  "pass in what is needed as a value or an interface, or move the code to the side of the arrow where it belongs",
		Check: checkImports,
	}}
}

// layer says what packages may import. Patterns are separated by spaces: "." is the root, "x/*" what is directly
// below x, "x/..." x and all below it; "-x" takes away. "third-party" stands for what is not in this module. The
// standard library is always allowed, and so is a package's own subtree.
type layer struct {
	packages string
	imports  string
	why      string
}

// layers returns the layers of the house. The first that a package matches counts.
func layers() []layer {
	const (
		leaves   = "fault machine blob event"
		domain   = ". internal/wire " + leaves
		parts    = domain + " internal/... -internal/app/... -internal/cli/... -internal/house third-party"
		noStores = " -internal/store/sqlite -internal/store/postgres"
	)
	return []layer{
		{"fault", "", "everything stands on fault, so fault stands on the standard library"},
		{"machine blob event", "fault", "who implements a capability should get the interface and nothing else"},
		{"machine/machinetest", "fault machine", "who tests a provider should get the suite and nothing else"},
		{"blob/blobtest", "fault blob", "who tests a blob store should get the suite and nothing else"},
		{"event/eventtest", "fault event", "who tests a source should get the suite and nothing else"},
		{"machine/local/...", "fault machine internal/process third-party", "a provider knows its interface, never a sibling or the root"},
		{"machine/...", "fault machine third-party", "a provider knows its interface, never a sibling or the root"},
		{"blob/fileblob", "fault blob internal/failpoint third-party", "a blob store knows its interface, and may pass failpoints"},
		{"blob/...", "fault blob internal/remoteblob/... third-party", "a blob store knows its interface, never a sibling or the root"},
		{"event/...", "fault event third-party", "a source knows its interface, never a sibling or the root"},
		{".", "fault machine machine/local internal/wire internal/lend internal/call internal/call/codec internal/link internal/pool internal/boot internal/rehearsal", "a user's program imports the root, and so everything that the root imports"},
		{"internal/wire", "fault machine", "the protocol is shared by agent and server and belongs to neither"},
		{"internal/link", "fault third-party", "a link carries frames and knows nothing of what they mean"},
		{"internal/failpoint", "fault", "every layer may pass a failpoint"},
		{"internal/lend", "", "whoever sends a body may lend it, and it needs nothing for that"},
		{"internal/remoteblob/...", "fault blob internal/lend internal/remoteblob/... third-party", "what blob stores have in common stands below them"},
		{"internal/hostshell", "fault machine machine/memmachine internal/process third-party", "it gives the fake of a provider real programs, for tests, and knows nothing else"},
		{"internal/process", "fault machine third-party", "providers and the agent start processes, so this stands below both"},
		{"internal/call/codec", "fault", "how a value becomes bytes has nothing to do with where they go"},
		{"internal/call", "fault internal/link", "what is called, and with what, is known here; where it runs is not"},
		{"internal/boot", "fault machine machine/local internal/pid1 internal/process internal/link third-party", "it brings a runner to its parent and knows nothing of what is called there"},
		{"internal/rehearsal", "machine internal/link", "it is the seam between the root and what plays its runners, and does nothing itself"},
		{"dayflytest", ". fault machine machine/memmachine internal/link internal/rehearsal", "who tests a program should get the pool and a provider in memory, and nothing of the server"},
		{"internal/hire", "fault machine internal/wire internal/failpoint", "it hires out machines of any provider, and knows nothing of jobs"},
		{"internal/fleet", "fault machine internal/wire internal/hire internal/boot", "it lends out warm runners on machines that are hired, and knows nothing of jobs or of calls"},
		{"internal/store", domain, "the store's interface is above no implementation"},
		{"internal/store/...", domain + " internal/store internal/failpoint internal/migration internal/store/storetest third-party", "a store knows its interface, never a sibling"},
		{"internal/pool", "fault", "who runs where is decided without knowing what a runner is"},
		{"internal/agent/agentmain", "internal/agent internal/process internal/pid1 internal/wire machine machine/local third-party", "the agent's program joins the agent, the supervisor of this host and a container's first process"},
		{"internal/agent/...", parts + noStores + " -internal/store/... -internal/engine -internal/api", "the agent runs in the machine: it knows the protocol, not the server"},
		{"internal/house", "third-party", "the rules read the source and need none of it"},
		{"internal/app/...", parts + " internal/app/... server/... machine/... blob/... event/...", "it ties everything together, and is the only one to import every backend"},
		{"internal/cli/...", parts + noStores + " internal/app/... internal/cli/... server/...", "the commands get backends from internal/app"},
		{"internal/...", parts + noStores, "a part of the server knows the domain, not who ties it together"},
		{"server/...", parts + " blob/fileblob", "the server is given its providers as values; what is in its data directory is its own"},
		{"cmd/dayfly-agent", "internal/agent/... internal/process", "the agent's binary is small because it holds the agent alone"},
		{"cmd/...", "internal/cli internal/agent/...", "a main is twenty lines; what it would do belongs to internal/cli, where it can be tested"},
		{"examples/... runtimes/...", ". server " + leaves + " machine/... blob/... event/... third-party", "an example shows what a stranger can write, and a stranger cannot import internal packages"},
		{"bench/...", domain + " internal/... server/... machine/... blob/... event/... bench/... third-party", "benchmarks measure everything"},
	}
}

func checkImports(t *Tree) []Finding {
	var found []Finding
	for f := range t.goFiles {
		l, ok := layerOf(f.Dir())
		if !ok {
			found = append(found, t.at(f, f.Go.Name, "no layer says what package %s may import; add it to layers in internal/house/imports.go", f.Dir()))
			continue
		}
		for _, spec := range f.Go.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err == nil && !mayImport(l, f.Dir(), imported) {
				found = append(found, t.at(f, spec, "%s must not import %s: %s", name(f.Dir()), imported, l.why))
			}
		}
	}
	return found
}

func name(dir string) string {
	if dir == "." {
		return "the root package"
	}
	return fmt.Sprintf("package %s", dir)
}

func layerOf(dir string) (layer, bool) {
	for _, l := range layers() {
		if slices.ContainsFunc(strings.Fields(l.packages), func(p string) bool { return matches(p, dir) }) {
			return l, true
		}
	}
	return layer{}, false
}

func mayImport(l layer, from, imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	inModule := imported == module || strings.HasPrefix(imported, module+"/")
	allowed := strings.Fields(l.imports)
	switch {
	case !inModule && !strings.Contains(first, "."):
		return true // the standard library
	case !inModule:
		return slices.Contains(allowed, "third-party")
	}
	to := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
	if to == "" {
		to = "."
	}
	if from != "." && strings.HasPrefix(to, from+"/") {
		return true
	}
	may := false
	for _, pattern := range allowed {
		if taken, ok := strings.CutPrefix(pattern, "-"); ok {
			may = may && !matches(taken, to)
		} else if matches(pattern, to) {
			may = true
		}
	}
	return may
}

func matches(pattern, dir string) bool {
	if root, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == root || strings.HasPrefix(dir, root+"/")
	}
	if parent, ok := strings.CutSuffix(pattern, "/*"); ok {
		return path.Dir(dir) == parent
	}
	return pattern == dir
}
