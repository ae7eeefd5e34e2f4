import Decimal from "decimal.js";

Decimal.set({ precision: 40 });

export const init = () => ({
  run: () => [
    new Decimal(2).sqrt(),
    new Decimal("0.1").plus("0.2"),
    Decimal.exp(1).toString(),
    new Decimal(10).pow(-30).toFixed(),
  ],
});
