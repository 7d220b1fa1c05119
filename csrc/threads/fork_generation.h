// Tells whether this process was forked from the one that made an object (its threads stayed there).
#pragma once

namespace quire {

// Grows by one in the child of every fork() after the first call of this function. Cheap: one load.
int fork_generation();

}  // namespace quire
