package fly

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// guest is how large a Fly machine is.
type guest struct {
	CPUKind  string `json:"cpu_kind"`
	CPUs     int    `json:"cpus"`
	MemoryMB int    `json:"memory_mb"`
	GPUKind  string `json:"gpu_kind,omitempty"`
	GPUs     int    `json:"gpus,omitempty"`
}

// kind is one of Fly's two kinds of processor, with the numbers of them a machine may have and the MiB of memory that
// go with each. From Fly's documentation and its client's presets.
type kind struct {
	name        string
	counts      []int
	least, most int
}

// memoryStep is what memory is a multiple of. Fly's documents contradict each other about performance processors (256,
// 1024 and 2048 have been said), so only what holds for all is refused here; the rest is Fly's to refuse.
const memoryStep = 256

func shared() kind { return kind{"shared", []int{1, 2, 4, 6, 8}, 256, 2048} }
func performance() kind {
	return kind{"performance", []int{1, 2, 4, 6, 8, 10, 12, 14, 16}, 2048, 8192}
}

// gpuKinds returns Fly's name of each GPU, by every name it goes by.
func gpuKinds() map[string]string {
	return map[string]string{
		"a10": "a10", "l40s": "l40s",
		"a100-40gb": "a100-pcie-40gb", "a100-pcie-40gb": "a100-pcie-40gb",
		"a100-80gb": "a100-sxm4-80gb", "a100-sxm4-80gb": "a100-sxm4-80gb",
	}
}

// guestOf returns the guest that is asked for, or fault.Invalid or fault.Unsupported for one that Fly does not have. A
// size is never rounded.
func guestOf(s machine.Size) (*guest, error) {
	switch {
	case s.DiskMB > 0:
		return nil, fault.Say(fault.Unsupported, "Fly does not limit how much a machine writes; leave the disk out of the size")
	case s.Processes > 0:
		return nil, fault.Say(fault.Unsupported, "Fly does not limit how many processes a machine has; leave processes out of the size")
	case s.CPUs != math.Trunc(s.CPUs) || s.CPUs > 64:
		return nil, fault.Say(fault.Invalid, "Fly has no machine with %v CPUs: it gives whole ones, at most 16", s.CPUs)
	case s.MemoryMB%memoryStep != 0:
		return nil, fault.Say(fault.Invalid, "Fly has no machine with %d MiB of memory: it gives multiples of %d", s.MemoryMB, memoryStep)
	}
	if _, isGPU := gpuKinds()[s.Preset]; isGPU && s.GPU == "" {
		s.GPU = s.Preset
	}
	k, cpus, err := kindOf(s)
	if err != nil {
		return nil, err
	}
	g := &guest{CPUKind: k.name, CPUs: cpus, MemoryMB: s.MemoryMB}
	if s.GPU != "" {
		g.GPUKind, g.GPUs = gpuKinds()[s.GPU], 1
		if g.MemoryMB == 0 {
			g.MemoryMB = 32768
		}
	}
	if g.MemoryMB == 0 {
		g.MemoryMB = cpus * k.least
	}
	switch {
	case !slices.Contains(k.counts, cpus):
		return nil, fault.Say(fault.Invalid, "Fly has no machine with %d %s CPUs; it has %v", cpus, k.name, k.counts)
	case g.MemoryMB < cpus*k.least:
		return nil, fault.Say(fault.Invalid, "%d MiB of memory are too little for %d %s CPUs: Fly's least is %d MiB; ask for more, or for fewer CPUs",
			g.MemoryMB, cpus, k.name, cpus*k.least)
	case g.MemoryMB > cpus*k.most:
		return nil, fault.Say(fault.Invalid, "%d MiB of memory are too much for %d %s CPUs: Fly's most is %d MiB; ask for less, or for more CPUs",
			g.MemoryMB, cpus, k.name, cpus*k.most)
	}
	return g, nil
}

// kindOf returns the kind of processor and how many of them. A preset says which kind; bare numbers get the cheaper one
// that has them.
func kindOf(s machine.Size) (kind, int, error) {
	if _, known := gpuKinds()[s.GPU]; s.GPU != "" && !known {
		return kind{}, 0, fault.Say(fault.Invalid, "Fly has no GPU called %q; it has a10, l40s, a100-pcie-40gb and a100-sxm4-80gb", plain(s.GPU, 64))
	}
	cpus := int(s.CPUs)
	switch {
	case s.GPU != "":
		if cpus == 0 {
			cpus = 8
		}
		return performance(), cpus, nil
	case strings.HasPrefix(s.Preset, "shared-cpu-"):
		return ofPreset(shared(), "shared-cpu-", s)
	case strings.HasPrefix(s.Preset, "performance-"):
		return ofPreset(performance(), "performance-", s)
	case s.Preset != "" && cpus == 0:
		return kind{}, 0, unknownPreset(s.Preset)
	case cpus > 0:
		k := shared()
		if !slices.Contains(k.counts, cpus) || s.MemoryMB > cpus*k.most {
			k = performance()
		}
		return k, cpus, nil
	}
	for _, k := range []kind{shared(), performance()} {
		for _, n := range k.counts {
			if s.MemoryMB <= n*k.most {
				return k, n, nil
			}
		}
	}
	return kind{}, 0, fault.Say(fault.Invalid, "Fly has no machine with %d MiB of memory; its largest has 131072", s.MemoryMB)
}

// ofPreset returns the number of processors that a preset's name says, unless the size says another.
func ofPreset(k kind, prefix string, s machine.Size) (kind, int, error) {
	if s.CPUs > 0 {
		return k, int(s.CPUs), nil
	}
	for _, n := range k.counts {
		if s.Preset == prefix+strconv.Itoa(n)+"x" {
			return k, n, nil
		}
	}
	return kind{}, 0, unknownPreset(s.Preset)
}

func unknownPreset(name string) error {
	return fault.Say(fault.Invalid, "Fly has no size %q; it has shared-cpu-1x to shared-cpu-8x, performance-1x to performance-16x and GPUs: %s",
		plain(name, 64), strings.Join(machine.Presets(), ", "))
}
