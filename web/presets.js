// Regime Split Scheduler: with any preset but manual these widgets do not count, and look so.
import { app } from "../../scripts/app.js";

const NODE = "RegimeSplitScheduler";
const OF_MANUAL = ["scheduler", "steps", "split", "low_steps", "rule"];

function follow(owner, method, action) {
  const before = owner[method];
  owner[method] = function (...values) {
    const result = before?.apply(this, values);
    action();
    return result;
  };
}

app.registerExtension({
  name: "stable-velocity.presets",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const preset = node.widgets?.find((widget) => widget.name === "preset");
    if (!preset) return;
    const show = () => {
      for (const widget of node.widgets)
        if (OF_MANUAL.includes(widget.name)) widget.disabled = preset.value !== "manual";
    };
    follow(preset, "callback", show);
    follow(node, "onConfigure", show);
    show();
  },
});
