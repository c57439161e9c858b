// A device whose module does not load.

throw new Error("broken at the top");
