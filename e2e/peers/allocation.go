// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"k8s.io/kubernetes/pkg/registry/core/service/allocator"
)

// measureAllocation prints how many nanoseconds upstream's bitmap takes to
// allocate an item and give it back. Arguments, as those of Berth's
// counterpart (e2e/allocation): how many items there are, how many of the
// lowest are the static band, how those that are taken lie (even or end), how
// many are taken, for how many milliseconds to measure.
func measureAllocation(arguments []string) error {
	if len(arguments) != 5 {
		return fmt.Errorf("five arguments are wanted: SIZE KEPT even|end TAKEN MILLISECONDS")
	}
	var numbers [5]int
	for i, text := range arguments {
		if i == 2 {
			continue
		}
		number, err := strconv.Atoi(text)
		if err != nil || number < 0 {
			return fmt.Errorf("%q is no number", text)
		}
		numbers[i] = number
	}
	size, kept, pattern, taken := numbers[0], numbers[1], arguments[2], numbers[3]
	if taken >= size {
		return fmt.Errorf("nothing is left to allocate")
	}
	bitmap := allocator.NewAllocationMapWithOffset(size, "bench", kept)
	// From the top, so that its number grows once.
	for i := size - 1; i >= 0; i-- {
		if takes(pattern, i, size, taken) {
			if ok, err := bitmap.Allocate(i); !ok || err != nil {
				return fmt.Errorf("taking %d: %t, %v", i, ok, err)
			}
		}
	}
	least := time.Duration(numbers[4]) * time.Millisecond
	for turns := 1; ; turns *= 2 {
		start := time.Now()
		for range turns {
			item, ok, err := bitmap.AllocateNext()
			if !ok || err != nil {
				return fmt.Errorf("allocating: %t, %v", ok, err)
			}
			if err := bitmap.Release(item); err != nil {
				return err
			}
		}
		if took := time.Since(start); took >= least {
			_, err := fmt.Fprintf(os.Stdout, "%.2f\n", float64(took.Nanoseconds())/float64(turns))
			return err
		}
	}
}

// takes says whether the item is one of those that are taken.
func takes(pattern string, item, size, taken int) bool {
	if pattern == "even" {
		return (item+1)*taken/size != item*taken/size
	}
	return item < taken
}
