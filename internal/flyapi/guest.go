package flyapi

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dayfly-run/dayfly/machine"
)

// guest is a machine's share of a host.
type guest struct {
	CPUKind  string `json:"cpu_kind"`
	CPUs     int    `json:"cpus"`
	MemoryMB int    `json:"memory_mb"`
	GPUKind  string `json:"gpu_kind,omitempty"`
	GPUs     int    `json:"gpus,omitempty"`
}

// preset is a size with a name.
type preset struct {
	name  string
	guest guest
}

// presets returns Fly's named sizes, the shared ones first.
func presets() []preset {
	var all []preset
	for _, n := range []int{1, 2, 4, 6, 8} {
		all = append(all, preset{fmt.Sprintf("shared-cpu-%dx", n), guest{CPUKind: "shared", CPUs: n, MemoryMB: 256 * n}})
	}
	for _, n := range []int{1, 2, 4, 6, 8, 10, 12, 14, 16} {
		all = append(all, preset{fmt.Sprintf("performance-%dx", n), guest{CPUKind: "performance", CPUs: n, MemoryMB: 2048 * n}})
	}
	for _, gpu := range []struct{ name, kind string }{
		{"a10", "a10"}, {"l40s", "l40s"},
		{"a100-40gb", "a100-pcie-40gb"}, {"a100-pcie-40gb", "a100-pcie-40gb"},
		{"a100-80gb", "a100-sxm4-80gb"}, {"a100-sxm4-80gb", "a100-sxm4-80gb"},
	} {
		all = append(all, preset{gpu.name, guest{CPUKind: "performance", CPUs: 8, MemoryMB: 32768, GPUKind: gpu.kind, GPUs: 1}})
	}
	return all
}

// guestOf returns the guest that a configuration asks for, which is Fly's smallest when it asks for none. A guest of
// zeros is none: clients send one next to a size because their encoder cannot leave it out.
func guestOf(size string, given *guest) (guest, error) {
	if given != nil && *given == (guest{}) {
		given = nil
	}
	switch {
	case size != "" && given != nil:
		return guest{}, unprocessable("config.size and config.guest are mutually exclusive; give one of them")
	case size != "":
		return guestOfSize(size)
	case given == nil:
		return guestOfSize("shared-cpu-1x")
	}
	return given.complete()
}

func guestOfSize(size string) (guest, error) {
	all := presets()
	if i := slices.IndexFunc(all, func(p preset) bool { return p.name == size }); i >= 0 {
		return all[i].guest, nil
	}
	if !strings.HasPrefix(size, "shared") && !strings.HasPrefix(size, "performance") {
		return guest{}, unprocessable("invalid machine preset requested, '%.60s', expected to start with 'shared' or 'performance'", size)
	}
	var names []string
	for _, p := range all {
		names = append(names, p.name)
	}
	return guest{}, unprocessable("'%.60s' is an invalid machine size, choose one of: [%s]", size, strings.Join(names, ", "))
}

// complete fills in what a guest leaves open, and refuses what Fly has no machine for.
func (g guest) complete() (guest, error) {
	if g.CPUKind == "" {
		g.CPUKind = "shared"
	}
	if g.CPUs == 0 {
		g.CPUs = 1
	}
	var least, most, step int
	switch g.CPUKind {
	case "shared":
		least, most, step = 256, 2048, 256
	case "performance":
		least, most, step = 2048, 8192, 1024
	default:
		return g, unprocessable("config.guest.cpu_kind '%.40s' is not one of shared, performance", g.CPUKind)
	}
	if g.GPUKind != "" {
		most = 1 << 20 // they come with hosts of their own
		if g.GPUs == 0 {
			g.GPUs = 1
		}
	}
	if !slices.ContainsFunc(presets(), func(p preset) bool { return p.guest.CPUKind == g.CPUKind && p.guest.CPUs == g.CPUs }) {
		return g, unprocessable("invalid number of CPUs, %d, for CPU kind %s", g.CPUs, g.CPUKind)
	}
	if g.MemoryMB == 0 {
		g.MemoryMB = least * g.CPUs
	}
	switch {
	case g.MemoryMB < least*g.CPUs:
		return g, unprocessable("invalid memory size, %d MiB: minimum required memory for %d %s CPUs is %d MiB", g.MemoryMB, g.CPUs, g.CPUKind, least*g.CPUs)
	case g.MemoryMB > most*g.CPUs:
		return g, unprocessable("invalid memory size, %d MiB: maximum allowed memory for %d %s CPUs is %d MiB", g.MemoryMB, g.CPUs, g.CPUKind, most*g.CPUs)
	case g.MemoryMB%step != 0:
		return g, unprocessable("invalid memory size, %d MiB: memory must be a multiple of %d MiB", g.MemoryMB, step)
	case g.GPUs < 0 || g.GPUs > 8 || g.GPUs > 0 && g.GPUKind == "":
		return g, unprocessable("config.guest.gpus %d needs a gpu_kind and a number from 1 to 8", g.GPUs)
	}
	return g, nil
}

// size returns the guest as a provider is told it. Neither number is above its cap; 0 is no cap.
func (g guest) size(maxCPUs float64, maxMemoryMB int) machine.Size {
	size := machine.Size{CPUs: float64(g.CPUs), MemoryMB: g.MemoryMB, GPU: g.GPUKind}
	if maxCPUs > 0 {
		size.CPUs = min(size.CPUs, maxCPUs)
	}
	if maxMemoryMB > 0 {
		size.MemoryMB = min(size.MemoryMB, maxMemoryMB)
	}
	return size
}
